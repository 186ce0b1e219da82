package test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// pod is an agent as process 1, with a home and a folder for temporary files of its own
// that it restores, as in a worker pod.
type pod struct {
	*process
	home, tmp string
}

func (r *runtime) startPod(t *testing.T, args ...string) *pod {
	t.Helper()
	p := &pod{home: t.TempDir(), tmp: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.home, "from-the-image"), []byte("as it was"), 0o644); err != nil {
		t.Fatal(err)
	}
	const setUp = `mount --make-rprivate / && mount -t proc proc /proc && exec "$@"`
	cmd := exec.Command("sh", append([]string{"-c", setUp, "sh", filepath.Join(bin, "worker-agent"),
		"--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"), "--name", "pod-a",
		"--admin-address", "127.0.0.1:0", "--no-limits", "--dir", p.home, "--scratch", p.tmp + "," + p.home}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	cmd.Env = append(os.Environ(), "HOME="+p.home, "TMPDIR="+p.tmp, "POD_TMP="+p.tmp)
	p.process = launchCommand(t, cmd)
	return p
}

// names that differ from worker to worker.
var names = regexp.MustCompile(`psock-agent-\w+/\d+|Rtmp\w+`)

// state is what a pod holds: its processes, by their names; its files, with their sizes;
// and how many files the agent has open.
func (p *pod) state(t *testing.T) map[string]int64 {
	t.Helper()
	found := make(map[string]int64)
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if name, _ := os.Readlink(dir + "/ns/pid"); name == namespace {
			comm, _ := os.ReadFile(dir + "/comm") // it may end
			found["process "+strings.TrimSpace(string(comm))]++
		}
	}
	for child := range children(t, p.cmd.Process.Pid) {
		open, _ := os.ReadDir(child + "/fd")
		found["open files"] += int64(len(open))
	}
	for _, dir := range []string{p.home, p.tmp} {
		// What is being removed meanwhile is not there.
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if info, err := entry.Info(); err == nil {
				name := names.ReplaceAllString(path, "X")
				found[name]++
				if !info.IsDir() {
					found[name+" bytes"] += info.Size()
				}
			}
			return nil
		})
	}
	return found
}

// residentBytes is the resident memory of the agent, which is the child of the pod's process 1.
func (p *pod) residentBytes(t *testing.T) (bytes int64) {
	t.Helper()
	for child := range children(t, p.cmd.Process.Pid) {
		text, err := os.ReadFile(child + "/statm")
		if err != nil {
			continue // it has ended
		}
		var size, resident int64
		if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
			t.Fatal(err)
		}
		bytes += resident * int64(os.Getpagesize())
	}
	return bytes
}

// awaitFresh waits for the one worker, warm, after the process with the id before.
func (r *runtime) awaitFresh(before int) int {
	r.t.Helper()
	s := r.await("a fresh worker", func(s api.State) bool {
		return len(s.Workers) == 1 && s.Workers[0].State == pool.Warm && s.Workers[0].PID != before
	})
	return s.Workers[0].PID
}

// whatASessionSees is R code for what a previous session might have left to it.
const whatASessionSees = `list(
  options = options()[c("mess", "digits")], variable = Sys.getenv("MESS"), search = search(),
  global = exists("mess"), package = nzchar(system.file(package = "messy")), home = list.files("~", all.files = TRUE),
  image = readLines("~/from-the-image", warn = FALSE), tmp = sub("psock-agent-.*", "", list.files(Sys.getenv("POD_TMP"))),
  own = list.files(tempdir(), all.files = TRUE))`

// leaveAMess is R code that leaves one: files, and processes that do all they can to stay.
const leaveAMess = `{
  tmp <- Sys.getenv("POD_TMP")
  options(mess = TRUE, digits = 3); Sys.setenv(MESS = "1"); assign("mess", 1, globalenv())
  writeLines(c("options(mess = TRUE)", "mess <- 1"), "~/.Rprofile")
  writeLines("MESS=1", "~/.Renviron")
  writeLines("options(mess = TRUE)", "~/.future.R")
  writeLines("changed", "~/from-the-image")
  dir.create("~/.cache/locked", recursive = TRUE); Sys.chmod("~/.cache/locked", "000")
  for (file in c(file.path(tmp, "big"), "~/big")) writeBin(raw(3e7), file)
  stopifnot(system2("dd", c("if=/dev/zero", paste0("of=", tempfile()), "bs=1M", "count=500"), stderr = FALSE) == 0)
  own <- file.path(.libPaths()[1], "messy")
  dir.create(own); writeLines("Package: messy", file.path(own, "DESCRIPTION"))
  started <- file.path(tmp, "started")
  dir.create(started)
  daemon <- function(name, how) system(sprintf(how, sprintf("sh -c 'touch %s; exec sleep 86411'", file.path(started, name))), wait = FALSE)
  daemon("child", "%s"); daemon("setsid", "setsid %s"); daemon("twice", "(setsid %s &)")
  daemon("wiped", "env -i PATH=$PATH setsid -f %s")
  port <- parallelly::freePort()
  parallel::mcparallel({ s <- serverSocket(port); file.create(file.path(started, "server")); Sys.sleep(86411) }, detached = TRUE)
  while (length(list.files(started)) < 5) Sys.sleep(0.01)
}`

// mostGrowth is what Go's heap may grow by, with the race detector, while nothing leaks: one of
// the files that a session leaves has more.
const mostGrowth = 128 << 20

// A session that leaves a mess, twenty times: the next one sees nothing of it, and the pod
// is as before.
func TestMess(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	p := r.startPod(t)
	gates := t.TempDir()
	worker := r.awaitFresh(0)
	before, memory := p.state(t), p.residentBytes(t)
	// What a worker has is its plan's: one R does for all sessions.
	s := r.startR(`
library(future)
for (i in 1:20) {
  while (!file.exists(file.path(Sys.getenv("GATES"), i))) Sys.sleep(0.01)
  plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)
  seen <- value(future(`+whatASessionSees+`))
  value(future({`+leaveAMess+`; NULL }))
  str(seen)
  plan(sequential)
  cat("end of", i, "\n")
}`, "GATES="+gates)
	session := func(i int) string {
		openGate(t, filepath.Join(gates, fmt.Sprint(i)))
		end := fmt.Sprintf("end of %d \n", i)
		s.awaitText(end)
		text, _, _ := strings.Cut(s.text(), end)
		if _, after, found := strings.Cut(text, fmt.Sprintf("end of %d \n", i-1)); found {
			text = after
		}
		return text
	}
	first := session(1)
	for i := range 20 {
		worker = r.awaitFresh(worker)
		diff := ""
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("after session %d (-before +after):\n%s", i+1, diff)
			}
		})
		eventually(t, "the pod to be as before", func() bool {
			diff = cmp.Diff(before, p.state(t))
			return diff == ""
		})
		if i == 19 {
			break
		}
		if again := session(i + 2); again != first {
			t.Fatalf("session %d sees what another has left (-first +now):\n%s", i+2, cmp.Diff(first, again))
		}
	}
	if code := s.wait(); code != 0 {
		t.Errorf("R exited with %d", code)
	}
	if after := p.residentBytes(t); after > memory+mostGrowth {
		t.Errorf("the agent took %d bytes and takes %d", memory, after)
	}
}

// On a machine that is not the agent's alone: startup files and packages of one session are
// not the next one's, daemons end with their worker, and nothing else is touched.
func TestNoStateCrosses(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	home, tmp := t.TempDir(), t.TempDir()
	source := filepath.Join(t.TempDir(), "messy")
	for name, text := range map[string]string{
		"DESCRIPTION": "Package: messy\nVersion: 1.0\nTitle: T\nDescription: D.\nLicense: GPL\nAuthor: A\nMaintainer: A <a@example.org>\n",
		"NAMESPACE":   "",
	} {
		if err := os.MkdirAll(source, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	provided := filepath.Join(t.TempDir(), "library")
	if err := os.Mkdir(provided, 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"HOME=" + home, "TMPDIR=" + tmp, "POD_TMP=" + tmp, "R_LIBS_USER=" + provided}
	agent := launch(t, env, filepath.Join(bin, "worker-agent"), "--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"),
		"--name", "pod-a", "--admin-address", "127.0.0.1:0", "--no-limits", "--dir", home)
	worker := r.awaitFresh(0)
	see := `
seen <- value(future(list(mess = getOption("mess"), variable = Sys.getenv("MESS"), messy = requireNamespace("messy", quietly = TRUE),
  provided = normalizePath(Sys.getenv("R_LIBS_USER")) %in% .libPaths(), child = system2(file.path(R.home("bin"), "Rscript"),
    c("-e", shQuote("cat(identical(.libPaths(), strsplit(Sys.getenv('R_LIBS'), ':')[[1]]), is.null(getOption('mess')))")), stdout = TRUE))))
`
	const begin = "library(future); plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)\n"
	first := r.R(begin + see + "str(seen)")
	if !strings.Contains(first, `provided: logi TRUE`) && !strings.Contains(first, `provided: logi  TRUE`) {
		t.Errorf("R_LIBS_USER is no library of the worker's: %s", first)
	}
	worker = r.awaitFresh(worker)
	r.R(begin+`
src <- Sys.getenv("SOURCE")
value(future({
  writeLines("options(mess = TRUE)", "~/.Rprofile"); writeLines("MESS=1", "~/.Renviron")
  install.packages(src, repos = NULL, type = "source", quiet = TRUE)
  stopifnot(requireNamespace("messy", quietly = TRUE))
  writeLines("mine", file.path(Sys.getenv("POD_TMP"), "mine")); writeLines("", tempfile())
  system("setsid sleep 86412", wait = FALSE); system("(setsid sh -c 'sleep 86412' &)")
  NULL
}))`, "SOURCE="+source)
	worker = r.awaitFresh(worker)
	eventually(t, "the daemons' end", func() bool { return len(running(t, "sleep 86412")) == 0 })
	if again := r.R(begin + see + "str(seen)"); again != first {
		t.Errorf("the next session sees what another has left (-first +now):\n%s", cmp.Diff(first, again))
	}
	r.awaitFresh(worker)
	for _, file := range []string{filepath.Join(tmp, "mine"), filepath.Join(home, ".Rprofile")} {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("nobody has said that the agent may remove it: %v", err)
		}
	}
	agent.signal(syscall.SIGTERM)
	if code := agent.wait(); code != 0 {
		t.Errorf("the agent exited with %d", code)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) != 1 {
		t.Errorf("%v is left, want what the session has left on purpose", left)
	}
}

// An agent that is killed takes its workers along, but neither their daemons nor their
// files: the next one ends and removes them.
func TestKilledAgentsMess(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	tmp := t.TempDir()
	start := func() *process {
		return launch(t, []string{"TMPDIR=" + tmp}, filepath.Join(bin, "worker-agent"), "--rendezvous", r.agents,
			"--tls-dir", filepath.Join(r.certs, "worker"), "--name", "pod-a", "--admin-address", "127.0.0.1:0", "--no-limits")
	}
	agent := start()
	worker := r.awaitFresh(0)
	s := r.startR(`
library(future)
plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)
f <- future({ writeLines("", tempfile()); system("setsid sleep 86413", wait = FALSE); Sys.sleep(86400) })
cat("computing\n")
value(f)`)
	s.awaitText("computing")
	eventually(t, "the daemon", func() bool { return len(running(t, "sleep 86413")) > 0 })
	agent.signal(syscall.SIGKILL)
	agent.wait()
	s.signal(syscall.SIGKILL)
	start()
	r.awaitFresh(worker)
	eventually(t, "the killed agent's daemon and files to go", func() bool {
		left, err := filepath.Glob(filepath.Join(tmp, "psock-agent-*"))
		return err == nil && len(left) == 1 && len(running(t, "sleep 86413")) == 0
	})
}
