// Package test holds the end-to-end tests: the real commands, real R, real TLS.
package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// patience bounds every wait for something that must happen. It is no measure of
// speed: machines that run tests are slow at times.
const patience = 6 * time.Minute

var bin string // directory with the commands under test

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "psock-runtime-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // some tests run them as another user
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = dir
	args := []string{"build", "-o", dir}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../cmd/rendezvous", "../cmd/worker-agent")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the commands: %v\n%s", err, out)
		return 1
	}
	if out, err := exec.Command("Rscript", "-e", "library(future.apply); library(furrr); library(doParallel); library(progressr)").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "these tests need R with future.apply, furrr, doParallel and progressr ('make deps' installs them): %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// process is a command under test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	log  bytes.Buffer
	news chan struct{} // closed and replaced with each line
}

// launch starts a program whose stderr is its log.
func launch(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	return launchCommand(t, cmd)
}

func launchCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{}), news: make(chan struct{})}
	p.cmd.Stdout = p
	p.cmd.Stderr = p
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the state is in ProcessState
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if t.Failed() {
			t.Logf("--- %s (pid %d):\n%s", filepath.Base(cmd.Path), p.cmd.Process.Pid, p.text())
		}
	})
	return p
}

// Write collects output.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.news)
	p.news = make(chan struct{})
	return p.log.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// field waits for a log line with the message and returns one of its fields.
func (p *process) field(message, field string) string {
	p.t.Helper()
	limit := time.After(patience)
	for {
		p.mu.Lock()
		news := p.news
		lines := bufio.NewScanner(bytes.NewReader(p.log.Bytes()))
		p.mu.Unlock()
		for lines.Scan() {
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) == nil && line["msg"] == message {
				return fmt.Sprint(line[field])
			}
		}
		select {
		case <-news:
		case <-p.done:
			p.t.Fatalf("%s ended before it logged %q:\n%s", p.cmd.Path, message, p.text())
		case <-limit:
			p.t.Fatalf("%s did not log %q:\n%s", p.cmd.Path, message, p.text())
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = p.cmd.Process.Signal(s) // it may end in this moment
	}
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	return p.waitFor(0)
}

// waitFor is wait for a process that is to end after lasts.
func (p *process) waitFor(lasts time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(lasts + patience):
		p.t.Fatalf("%s does not end:\n%s", p.cmd.Path, p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

// runtime is a rendezvous and what belongs to it.
type runtime struct {
	t      *testing.T
	certs  string
	agents string // address
	api    string
	admin  string
	first  int // port, and the last one, on which its R sessions listen
	last   int
	*process
}

// Each runtime has ports of its own, so that tests run side by side: a rendezvous serves
// every session of its range. They are below those that the kernel takes for
// connections, so that one which is down for a while finds its addresses free.
const (
	firstPort  = 20000
	rangePorts = 200
	ranges     = 60
)

// freeRanges are the first ports of the ranges that no test has.
var freeRanges = func() chan int {
	free := make(chan int, ranges)
	for i := range ranges {
		free <- firstPort + i*rangePorts
	}
	return free
}()

// startRendezvous starts a rendezvous with TLS on ports of its own.
func startRendezvous(t *testing.T, args ...string) *runtime {
	t.Helper()
	first := <-freeRanges
	t.Cleanup(func() { freeRanges <- first })
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", first+rangePorts-i) }
	r := &runtime{
		t: t, certs: filepath.Join(t.TempDir(), "certs"),
		agents: address(3), api: address(2), admin: address(1), first: first, last: first + rangePorts - 4,
	}
	if out, err := exec.Command(filepath.Join(bin, "rendezvous"), "certs", "--dir", r.certs).CombinedOutput(); err != nil {
		t.Fatalf("certs: %v\n%s", err, out)
	}
	r.start(args...)
	return r
}

// start starts the rendezvous, the second time on the same addresses.
func (r *runtime) start(args ...string) {
	r.t.Helper()
	r.process = launch(r.t, nil, filepath.Join(bin, "rendezvous"), append([]string{
		"--agents-address", r.agents, "--api-address", r.api, "--admin-address", r.admin,
		"--ports", fmt.Sprintf("%d-%d", r.first, r.last),
		"--tls-dir", filepath.Join(r.certs, "rendezvous"), "--log-level", "debug",
	}, args...)...)
	r.field("rendezvous is up", "agents")
}

// startAgent starts an agent.
func (r *runtime) startAgent(name string, workers int, args ...string) *process {
	r.t.Helper()
	return launch(r.t, nil, filepath.Join(bin, "worker-agent"), append([]string{
		"--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"), "--name", name,
		"--workers", fmt.Sprint(workers), "--admin-address", "127.0.0.1:0", "--no-limits",
	}, args...)...)
}

// state asks the rendezvous.
func (r *runtime) state() (api.State, error) {
	response, err := http.Get("http://" + r.api + "/v1/state")
	if err != nil {
		return api.State{}, err
	}
	defer response.Body.Close()
	var s api.State
	return s, json.NewDecoder(response.Body).Decode(&s)
}

// count counts slots in a state.
func count(s api.State, state pool.State) int {
	n := 0
	for _, w := range s.Workers {
		if w.State == state {
			n++
		}
	}
	return n
}

// await polls the rendezvous' state until ok holds.
func (r *runtime) await(what string, ok func(api.State) bool) api.State {
	r.t.Helper()
	var last api.State
	eventually(r.t, what, func() bool {
		s, err := r.state()
		last = s
		return err == nil && ok(s)
	})
	return last
}

// awaitWarm waits until n workers are warm.
func (r *runtime) awaitWarm(n int) {
	r.t.Helper()
	r.await(fmt.Sprintf("%d warm workers", n), func(s api.State) bool { return count(s, pool.Warm) == n })
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testkit.EventuallyWithin(t, patience, 10*time.Millisecond, what, ok)
}

// openGate lets a session go on that waits for the file.
func openGate(t *testing.T, gate string) {
	t.Helper()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// metric reads one series of the rendezvous' metrics, "name" or `name{label="x"}`.
func (r *runtime) metric(series string) string {
	r.t.Helper()
	return scrape(r.t, r.admin, series)
}

func scrape(t *testing.T, address, series string) string {
	t.Helper()
	_, text := testkit.Get(t, http.DefaultClient, "http://"+address+"/metrics")
	return testkit.Series(t, text, series)
}

// session is an R session: Rscript with the site profile.
type session struct {
	*process
}

// startR runs code as an R session beside the rendezvous.
func (r *runtime) startR(code string, env ...string) *session {
	r.t.Helper()
	return r.startRWith(nil, code, env...)
}

// startRWith gives Rscript options.
func (r *runtime) startRWith(options []string, code string, env ...string) *session {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "session.R")
	if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
		r.t.Fatal(err)
	}
	profile, err := filepath.Abs("../r/Rprofile.site")
	if err != nil {
		r.t.Fatal(err)
	}
	env = append([]string{
		"R_PROFILE=" + profile, "PSOCK_RENDEZVOUS_API=" + r.api, fmt.Sprintf("R_PARALLELLY_RANDOM_PORTS=%d:%d", r.first, r.last),
	}, env...)
	return &session{launch(r.t, env, "Rscript", append(options, file)...)}
}

// classic is the setting for sessions whose clusters are parallel's own, which has another
// range of ports.
func (r *runtime) classic() string { return fmt.Sprintf("R_PARALLEL_PORT=%d", r.first) }

// R runs code as an R session to its end and returns what it wrote.
func (r *runtime) R(code string, env ...string) string {
	r.t.Helper()
	s := r.startR(code, env...)
	if code := s.wait(); code != 0 {
		r.t.Fatalf("R exited with %d:\n%s", code, s.text())
	}
	return s.text()
}

// awaitText waits until the session has written text.
func (p *process) awaitText(text string) {
	p.t.Helper()
	limit := time.After(patience)
	for {
		p.mu.Lock()
		news, found := p.news, strings.Contains(p.log.String(), text)
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-news:
		case <-p.done:
			if strings.Contains(p.text(), text) {
				return
			}
			p.t.Fatalf("ended before it wrote %q:\n%s", text, p.text())
		case <-limit:
			p.t.Fatalf("did not write %q:\n%s", text, p.text())
		}
	}
}
