package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// has is R code that defines what(): what an R process has, one string for each row of the table in
// docs/worker.md.
const has = `
what <- function() list(
  "Working directory" = getwd(),
  "Home folder" = path.expand("~"),
  "Temporary folder" = dirname(tempdir()),
  "Locale" = Sys.getlocale("LC_COLLATE"),
  "Time zone" = format(as.POSIXct(0, origin = "1970-01-01"), "%H %Z"),
  "Environment variables" = Sys.getenv("PSOCK_TEST_MINE"),
  "Options" = paste(getOption("psock.test.mine"), getOption("digits")),
  "Library paths" = paste(.libPaths(), collapse = " "),
  "Packages attached" = paste(grep("splines", search(), value = TRUE), collapse = " "),
  "User's R startup files" = paste(getOption("psock.test.profile", "none")),
  "Threads of native code" = Sys.getenv("OMP_NUM_THREADS"),
  "Kind of random numbers" = RNGkind()[1L])
`

// The table in docs/worker.md is so: what begins with "the session's" is the same as in the session,
// what begins with "its own" is not, for workers of the rendezvous and for those of multisession.
func TestWhatAWorkerHas(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	place := func(name string) string {
		dir := filepath.Join(t.TempDir(), name)
		for _, sub := range []string{"home", "work", "library", "tmp"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "home/.Rprofile"), []byte("options(psock.test.profile = '"+name+"')\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	env := func(dir, locale, zone string) []string {
		return []string{"HOME=" + dir + "/home", "TMPDIR=" + dir + "/tmp", "LC_ALL=" + locale, "TZ=" + zone, "OMP_NUM_THREADS=3"}
	}
	session, pod := place("session"), place("pod")
	agent := launch(t, env(pod, "C.UTF-8", "UTC"), filepath.Join(bin, "worker-agent"), "--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"),
		"--name", "pod-a", "--workers", "1", "--admin-address", "127.0.0.1:0", "--dir", pod+"/work")
	defer agent.signal(15)
	r.awaitWarm(1)
	out := r.R(has+`
setwd("`+session+`/work")
.libPaths(c("`+session+`/library", .libPaths()))
options(psock.test.mine = 1, digits = 11)
Sys.setenv(PSOCK_TEST_MINE = "mine", OMP_NUM_THREADS = 2)
library(splines)
library(future)
RNGkind("Wichmann-Hill")
global <- 42
# What future sends with each future is asked of one.
both <- function() {
  set.seed(1)
  c(value(future(what())), "Global variables that a future uses" = value(future(paste(global))),
    "Random numbers with seed = TRUE" = value(future(paste(rnorm(1)), seed = TRUE)), "Cores" = value(future(paste(parallelly::availableCores()))))
}
mine <- c(what(), both()[-seq_along(what())])
plan(cluster, manual = TRUE, quiet = TRUE)
worker <- both()
plan(multisession, workers = I(1))
local <- both()
plan(sequential)
# One is what nested futures may use; future 1.31 says so to multisession alone.
newer <- exists("ClusterFutureBackend", asNamespace("future"))
stopifnot(local$Cores == "1", worker$Cores == (if (newer) "1" else paste(availableCores())))
for (row in setdiff(names(mine), "Cores")) {
  said <- vapply(list(mine, worker, local), function(x) encodeString(x[[row]], quote = "'"), "")
  cat("row|", row, "|", said[2] == said[1], "|", said[3] == said[1], "|", paste(said, collapse = " "), "\n", sep = "")
}
`, env(session, "C", "Asia/Tokyo")...)
	rows := make(map[string][]string)
	for line := range strings.Lines(out) {
		if fields := strings.Split(strings.TrimSpace(line), "|"); fields[0] == "row" {
			rows[fields[1]] = fields[2:]
		}
	}
	text, err := os.ReadFile("../docs/worker.md")
	if err != nil {
		t.Fatal(err)
	}
	for row, same := range rows {
		t.Logf("%s: %s", row, same[2])
		match := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(row) + ` \| (the session's|its own)[^|]* \| (the session's|its own)`).FindStringSubmatch(string(text))
		if match == nil {
			t.Errorf("docs/worker.md has no row %q that tells whether it is the session's or its own", row)
			continue
		}
		for i, who := range []string{"a worker", "a multisession worker"} {
			if so := map[string]string{"TRUE": "the session's", "FALSE": "its own"}[same[i]]; so != match[i+1] {
				t.Errorf("%s of %s: docs/worker.md says %q, it is %q: session, worker and multisession have %s", row, who, match[i+1], so, same[2])
			}
		}
	}
	if len(rows) == 0 {
		t.Errorf("R says %q", out)
	}
}
