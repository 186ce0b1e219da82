package r_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inChildren defines, in R, count: a function that counts workers and loads no package but
// parallelly; attached: a script that attaches future and counts; and child, which runs the
// script in an R of the given options and variables.
const inChildren = `
	count <- function() length(parallelly::availableWorkers())
	attached <- tempfile(fileext = ".R"); writeLines('suppressMessages(library(future)); cat(length(availableWorkers()))', attached)
	child <- function(..., env = character(), script = attached) {
		system2(file.path(R.home("bin"), "Rscript"), c(..., script), stdout = TRUE, env = env)
	}
	`

// A child process has the number of workers, whatever it reads of its session's profile.
func TestChildrenCountWorkers(t *testing.T) {
	for name, code := range map[string]string{
		"Rscript":                 `out(child())`,
		"vanilla":                 `out(child("--vanilla"))`,
		"no site file":            `out(child("--no-site-file"))`,
		"a profile of the user's": `out(child(env = "R_PROFILE=/dev/null"))`,
		"a fork":                  `out(parallel::mccollect(parallel::mcparallel(count()))[[1L]])`,
		"callr":                   `out(callr::r(count))`,
		"callr within callr":      `out(callr::r(function(f) callr::r(f), list(count)))`,
		"callr, the site's":       `out(callr::r(count, system_profile = TRUE))`,
		"a callr session":         `s <- callr::r_session$new(); out(s$run(count)); s$close()`,
		"callr in the background": `p <- callr::r_bg(count); p$wait(); out(p$get_result())`,
		"vanilla in callr":        `out(callr::r(child, list("--vanilla", script = attached)))`,
		"callr in vanilla":        `f <- tempfile(); writeLines('library(future); cat(callr::r(function() length(parallelly::availableWorkers())))', f); out(child("--vanilla", script = f))`,
		"callr, the user's profile": `f <- tempfile(); stopifnot(file.create(f)); n <- callr::r(function(f) { suppressMessages(library(future)); length(availableWorkers()) },
			env = c(callr::rcmd_safe_env(), R_PROFILE = f)); stopifnot(file.size(f) == 0); out(n)`,
	} {
		t.Run(name, func(t *testing.T) {
			got, messages := run(t, serve(t, "7").address(), inChildren+code)
			wantFields(t, got, "7")
			if strings.Contains(messages, "psock-runtime") {
				t.Errorf("R says %q", messages)
			}
		})
	}
}

// Where the profile is a part of R's site profile, children read the profile alone.
func TestChildrenOfASiteProfile(t *testing.T) {
	text, err := os.ReadFile(profile(t))
	if err != nil {
		t.Fatal(err)
	}
	site := filepath.Join(t.TempDir(), "Rprofile.site")
	if err := os.WriteFile(site, []byte("message('the site begins')\n"+string(text)+"message('the site ends')\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, messages := run(t, serve(t, "7").address(), inChildren+`out(child("--vanilla"), callr::r(count)); suppressMessages(library(future)); out(count())`,
		"R_PROFILE="+site)
	wantFields(t, got, "7", "7", "7")
	if want := "the site begins\nthe site ends\n"; messages != want {
		t.Errorf("R says %q, want %q", messages, want)
	}
}

// A profile that came in a way that it does not know says what its children need.
func TestChildrenOfASourcedProfile(t *testing.T) {
	source := `source("` + profile(t) + `"); `
	got, messages := run(t, serve(t, "7").address(), source+inChildren+`n <- callr::r(count); out(count(), Sys.getenv("PSOCK_PROFILE") == "")`, "R_PROFILE=/dev/null")
	wantFields(t, got, "7", "TRUE")
	if strings.Count(messages, "set PSOCK_PROFILE to the path") != 1 {
		t.Errorf("R says %q", messages)
	}
	got, messages = run(t, serve(t, "7").address(), source+inChildren+`out(callr::r(count))`, "R_PROFILE=/dev/null", "PSOCK_PROFILE="+profile(t))
	wantFields(t, got, "7")
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// A session's copy of the profile ends with it, and a child may not.
func TestChildrenThatOutliveTheirSession(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone.R")
	stale := []string{"PSOCK_PROFILE=" + gone, "R_FUTURE_STARTUP_SCRIPT=" + gone + ":.future.R:~/.future.R"}
	const user = `setwd(tempdir()); writeLines("cat('mine ')", ".future.R"); suppressMessages(library(future)); `
	got, _ := run(t, serve(t, "7").address(), user+`out(startsWith(Sys.getenv("R_FUTURE_STARTUP_SCRIPT"), paste0(Sys.getenv("R_PROFILE"), ":")))`, stale...)
	wantFields(t, got, "mine", "TRUE")
	got, _ = run(t, serve(t, "7").address(), user+`out(is.null(getOption("psock.once")))`,
		append(stale, "R_PROFILE=/dev/null")...)
	wantFields(t, got, "mine", "TRUE")
}

// future sources the user's startup script as ever, once, in the session and in its children.
func TestStartupScriptsAreKept(t *testing.T) {
	const show = `f <- tempfile(); writeLines('suppressMessages(library(future)); cat(nzchar(Sys.getenv("R_FUTURE_STARTUP_SCRIPT")))', f)
		source(f); out(""); out(child("--vanilla", script = f))`
	const mine = `writeLines("cat('here ')", ".future.R"); writeLines("cat('home ')", "~/.future.R"); writeLines("cat('own ')", "own.R"); `
	for name, tc := range map[string]struct {
		code, env string
		want      []string
	}{
		"none":                     {"", "A=1", []string{"TRUE", "TRUE"}},
		"here":                     {mine, "A=1", []string{"here", "TRUE", "here", "TRUE"}},
		"at home":                  {mine + `unlink(".future.R");`, "A=1", []string{"home", "TRUE", "home", "TRUE"}},
		"own":                      {mine, "R_FUTURE_STARTUP_SCRIPT=own.R", []string{"own", "TRUE", "own", "TRUE"}},
		"switched off":             {mine, "R_FUTURE_STARTUP_SCRIPT=FALSE", []string{"TRUE", "TRUE"}},
		"off by option":            {mine + `options(future.startup.script = FALSE);`, "A=1", []string{"TRUE", "here", "TRUE"}},
		"that fails":               {`writeLines("stop('mine fails')", ".future.R");`, "A=1", []string{"TRUE", "TRUE"}},
		"that sources the profile": {`writeLines("source(Sys.getenv('PSOCK_PROFILE')); cat('here ')", ".future.R");`, "A=1", []string{"here", "TRUE", "here", "TRUE"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, messages := run(t, serve(t, "7").address(), inChildren+`setwd(tempdir());`+tc.code+show, tc.env)
			wantFields(t, got, tc.want...)
			if fails := strings.Count(messages, "mine fails"); strings.Contains(messages, "psock-runtime") || fails != 0 != (name == "that fails") {
				t.Errorf("R says %q", messages)
			}
		})
	}
}

// Workers of the session's own clusters inherit its variables, and are as ever.
func TestLocalWorkersAreLeftAlone(t *testing.T) {
	got, messages := run(t, nobody(t), `cl <- parallelly::makeClusterPSOCK(1); setwd(tempdir()); writeLines("cat('mine ', file = 'sourced', append = TRUE)", ".future.R")
		w <- parallel::clusterEvalQ(cl, { suppressMessages(library(future))
			c(is.null(getOption("parallelly.availableWorkers.custom")), is.null(getOption("psock.once")), length(getHook(packageEvent("callr", "onLoad"))) == 0L) })
		out(w[[1L]]); x <- parallel::clusterCall(cl, setwd, getwd()); x <- parallel::clusterEvalQ(cl, { detach("package:future"); library(future) }); out(readLines("sourced", warn = FALSE))
		suppressMessages(library(future)); plan(multisession, workers = I(2)); out(value(future(is.null(getOption("parallelly.availableWorkers.custom"))))); plan(sequential)`)
	wantFields(t, got, "TRUE", "TRUE", "TRUE", "mine", "TRUE")
	if strings.Contains(messages, "psock-runtime") {
		t.Errorf("R says %q", messages)
	}
}

// What a user takes back stays so when the file is read again.
func TestReadTwice(t *testing.T) {
	got, messages := run(t, serve(t, "7").address(), `once <- getOption("psock.once"); hooks <- function() lengths(lapply(c("parallelly", "future", "callr"), function(p) getHook(packageEvent(p, "onLoad"))))
		before <- hooks(); options(parallelly.availableWorkers.custom = NULL); suppressMessages(library(future)); source(Sys.getenv("PSOCK_PROFILE"))
		out(is.null(getOption("parallelly.availableWorkers.custom")), identical(hooks(), before), identical(getOption("psock.once"), once), ls())`)
	wantFields(t, got, "TRUE", "TRUE", "TRUE", "before", "hooks", "n", "once", "out")
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// Switched off, the profile leaves its children alone, too.
func TestOffForChildren(t *testing.T) {
	got, messages := run(t, "off", inChildren+`out(callr::r(function() Sys.getenv("R_FUTURE_STARTUP_SCRIPT")) == "", Sys.getenv("PSOCK_PROFILE") == "")`)
	wantFields(t, got, "TRUE", "TRUE")
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// The scheduler's image has the profile in R's home, which R reads whatever it is told: even a
// child without a startup script, a profile or future attached has the number of workers.
func TestHomeOfTheImage(t *testing.T) {
	home := filepath.Join(t.TempDir(), "R")
	startup, err := filepath.Abs("../images/r-scheduler/startup.R")
	if err != nil {
		t.Fatal(err)
	}
	const build = `cp -rs "$(R RHOME)" "$1"; cp "$2" "$1/etc/psock-runtime.R"
		for file in library/base/R/Rprofile etc/Rprofile.site; do cat "$1/$file" "$3" > "$1/new"; rm -f "$1/$file"; mv "$1/new" "$1/$file"; done`
	if out, err := exec.Command("sh", "-c", build, "sh", home, profile(t), startup).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	env := []string{"R_HOME=" + home, "LD_LIBRARY_PATH=" + filepath.Join(home, "lib"), "R_FUTURE_STARTUP_SCRIPT=FALSE"}
	for _, option := range []string{"--no-save", "--vanilla", "--no-site-file"} {
		t.Run(option, func(t *testing.T) {
			cmd := rscript(t, serve(t, "7").address(), "", env...)
			cmd.Path = filepath.Join(home, "bin/exec/R")
			cmd.Args = []string{"R", "--no-echo", "--no-restore", option, "-e", `cat(length(parallelly::availableWorkers()), Sys.getenv("PSOCK_PROFILE"))`}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			wantFields(t, strings.Fields(string(out)), "7", filepath.Join(home, "etc/psock-runtime.R"))
		})
	}
}
