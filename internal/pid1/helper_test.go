package pid1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childEnv makes the test binary run as the program of a container, and names
// what its child does.
const childEnv = "PID1_TEST_CHILD"

// raceEnabled: the race detector needs memory of its own.
var raceEnabled bool

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" {
		os.Exit(runContainer(child))
	}
	goleak.VerifyTestMain(m)
}

func runContainer(child string) int {
	if os.Getpid() == 1 {
		if err := mountProc(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 99
		}
		if child == "unstartable" {
			os.Args = []string{"\x00"} // no argument can have a NUL in it
		}
	}
	if code, ended := Run(); ended {
		return code
	}
	code, err := runChild(child, os.Args[1:])
	if err != nil {
		fmt.Println(err)
		return 98
	}
	return code
}

func runChild(child string, args []string) (int, error) {
	switch child {
	case "exit":
		return strconv.Atoi(args[0])
	case "die":
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return 0, err
		}
		cmd := exec.Command("sh", "-c", fmt.Sprintf("kill -%d %d; sleep 1000", n, os.Getpid()))
		return 0, cmd.Run()
	case "show":
		in, err := io.ReadAll(os.Stdin)
		dir, err2 := os.Getwd()
		fmt.Printf("parent %d, args %q, dir %q, stdin %q\n", os.Getppid(), args, dir, in)
		return 0, errors.Join(err, err2)
	case "owned":
		// The second time it is a child of this one, in the same container.
		fmt.Println(Owned(), os.Getppid() == 1)
		if os.Getppid() != 1 {
			return 0, nil
		}
		cmd := exec.Command(os.Args[0])
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return 0, cmd.Run()
	case "signals":
		return showSignals()
	case "shell":
		return 0, syscall.Exec("/bin/sh", []string{"sh", "-c", args[0]}, os.Environ())
	case "orphans":
		return 0, orphans()
	case "sizes":
		status, err := os.ReadFile("/proc/1/status")
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(status), "RssAnon:")
		fmt.Println(strings.Fields(rest)[0])
		return 0, nil
	}
	return 0, fmt.Errorf("no such child: %q", child)
}

// showSignals prints the signals it gets, up to SIGTERM.
func showSignals() (int, error) {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch, forwarded()...)
	fmt.Println("ready")
	for sig := range ch {
		fmt.Println(int(sig.(syscall.Signal)))
		if sig == syscall.SIGTERM {
			return 42, nil
		}
	}
	return 0, nil
}

// orphans runs 500 commands, each of which leaves a process without a parent
// behind, and then waits until the last of these is gone.
func orphans() error {
	const n = 500
	var wg sync.WaitGroup
	errs := make([]error, n)
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			want := i % 256
			err := exec.Command("sh", "-c", fmt.Sprintf("sh -c 'exit %d' & exit %d", (i+1)%256, want)).Run()
			got := 0
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				got = exit.ExitCode()
			} else if err != nil {
				errs[i] = err
			}
			if got != want {
				errs[i] = fmt.Errorf("command %d: exit status %d, want %d", i, got, want)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		others, err := otherProcesses()
		if err != nil || len(others) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes are left: %q", len(others), others)
		}
		runtime.Gosched()
	}
}

// otherProcesses returns all processes, zombies too, but process 1 and this one.
func otherProcesses() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var others []string
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if pid != "1" && pid != strconv.Itoa(os.Getpid()) {
			stat, _ := os.ReadFile(dir + "/stat")
			others = append(others, string(stat))
		}
	}
	return others, nil
}
