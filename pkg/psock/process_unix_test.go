//go:build linux || darwin

package psock

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen, on a slow machine.
const patience = 30 * time.Second

// startLines starts a process and returns it with a channel of its lines.
func startLines(t *testing.T, args ...string) (*Process, <-chan Line) {
	t.Helper()
	lines := make(chan Line, 1000)
	p, err := Start(Spec{Args: args, Output: func(l Line) { lines <- l }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(0) })
	return p, lines
}

func nextLine(t *testing.T, lines <-chan Line) string {
	t.Helper()
	select {
	case l := <-lines:
		return l.Text
	case <-time.After(patience):
		t.Fatal("no line came")
		return ""
	}
}

func waitDone(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(patience):
		t.Fatal("the process is not done")
		return Exit{}
	}
}

func TestProcessExit(t *testing.T) {
	for _, tc := range []struct {
		name, script, want string
		code               int
		signal             syscall.Signal
	}{
		{"success", "echo bye", "exit status 0", 0, 0},
		{"code", "echo no such luck >&2; exit 3", "exit status 3: no such luck", 3, 0},
		{"silent", "exit 7", "exit status 7", 7, 0},
		{"signal", "echo busy; kill -USR1 $$", "killed by SIGUSR1", -1, syscall.SIGUSR1},
		{"SIGKILL", "kill -9 $$", "killed by SIGKILL", -1, syscall.SIGKILL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := startLines(t, "sh", "-c", tc.script)
			e := waitDone(t, p)
			if e.Code != tc.code || e.Signal != tc.signal || e.String() != tc.want || e.Uptime <= 0 || e.Stopped {
				t.Errorf("got %+v %q, want code %d, signal %v, %q", e, e, tc.code, tc.signal, tc.want)
			}
		})
	}
}

func TestProcessOfR(t *testing.T) {
	p, _ := startLines(t, "Rscript", "-e", "library(foo)")
	e := waitDone(t, p)
	if got := e.String(); !strings.HasPrefix(got, "exit status 1: Error in library(foo) : there is no package called ") {
		t.Errorf("got %q", got)
	}
	p, _ = startLines(t, "Rscript", "-e", "f <- function(x) stop(strrep('long ', 20)); f(strrep('a', 1)); ")
	e = waitDone(t, p)
	if got, want := e.String(), "exit status 1: Error in f(strrep(\"a\", 1)) : long long"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q...", got, want)
	}
}

func TestStartFails(t *testing.T) {
	for _, args := range [][]string{nil, {"/does/not/exist"}, {"does-not-exist"}, {os.DevNull}} {
		_, err := Start(Spec{Args: args})
		if err == nil {
			t.Fatalf("%q started", args)
		}
		if len(args) > 0 && !strings.Contains(err.Error(), args[0]) {
			t.Errorf("error %q does not name %q", err, args[0])
		}
	}
	if _, err := Start(Spec{Args: []string{"/does/not/exist"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want one that wraps fs.ErrNotExist", err)
	}
}

func TestStopIsGentleFirst(t *testing.T) {
	p, lines := startLines(t, "sh", "-c", "trap 'echo ending; exit 0' TERM; echo ready; sleep 1000 & wait")
	nextLine(t, lines)
	if e := p.Exit(); e.Uptime != 0 {
		t.Errorf("Exit before Done: got %+v, want the zero Exit", e)
	}
	p.Stop(patience)
	if e := p.Exit(); e.Code != 0 || !e.Stopped || e.LastLines[len(e.LastLines)-1] != "ending" {
		t.Errorf("got %+v", e)
	}
	p.Stop(0) // Stopping what has ended does nothing.
}

func TestStopKillsWhatIgnoresTerm(t *testing.T) {
	p, lines := startLines(t, "sh", "-c", "trap '' TERM; echo ready; exec sleep 1000")
	nextLine(t, lines)
	p.Stop(10 * time.Millisecond)
	if e := p.Exit(); e.Signal != syscall.SIGKILL || !e.Stopped || e.String() != "stopped with SIGKILL" {
		t.Errorf("got %+v %q", e, e)
	}
}

func TestStopConcurrently(t *testing.T) {
	p, lines := startLines(t, "sh", "-c", "trap '' TERM; echo ready; exec sleep 1000")
	nextLine(t, lines)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { p.Stop(5 * time.Millisecond) })
	}
	wg.Wait()
	if e := p.Exit(); e.Signal != syscall.SIGKILL {
		t.Errorf("got %+v", e)
	}
}

func TestOutOfMemory(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		rises, stop  bool
		fails        bool
		want         bool
	}{
		{name: "killed, counter rises", script: "kill -9 $$", rises: true, want: true},
		{name: "killed below a shell", script: "exit 137", rises: true, want: true},
		{name: "killed, counter stays", script: "kill -9 $$"},
		{name: "failed, counter rises", script: "exit 1", rises: true},
		{name: "killed by Stop", script: "trap '' TERM; echo ready; exec sleep 1000", rises: true, stop: true},
		{name: "no counter", script: "kill -9 $$", rises: true, fails: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls int64
			ready := make(chan struct{}, 1)
			p, err := Start(Spec{
				Args:   []string{"sh", "-c", tc.script},
				Output: func(Line) { ready <- struct{}{} },
				OOMKills: func() (int64, error) {
					if tc.fails {
						return 0, errors.New("no such file")
					}
					if tc.rises {
						calls++
					}
					return 41 + calls, nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if tc.stop {
				<-ready
				p.Stop(time.Millisecond)
			}
			e := waitDone(t, p)
			if e.OutOfMemory != tc.want || (e.String() == "killed by the kernel: out of memory") != tc.want {
				t.Errorf("got %+v %q, want OutOfMemory %v", e, e, tc.want)
			}
		})
	}
}
