// Package leftover ends what a worker's session has started and left: daemons in
// sessions of their own, processes whose parents have ended, and, where the program
// has the container to itself, those that have hidden where they come from.
//
// A worker and all that it starts have a variable in their environment, [Variable],
// whose value no other worker has. The kernel shows the memory in which a process got
// its environment when it was started (/proc/PID/environ). setenv leaves that as it is;
// a program that is executed with another environment lacks the variable, and so does
// one that writes its title over that memory (setproctitle). Such a program is
// known by its parents, as long as these live, and once they have ended by process 1,
// whose child it is then: see [Tracker.Owns].
//
// No process is signalled that may be somebody else's.
package leftover

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Variable is the environment variable that marks a worker's processes. Its value is
// the path of the worker's own folder.
const Variable = "PSOCK_WORKER_DIR"

// Tracker knows the living workers of this program.
type Tracker struct {
	self  process
	owned bool

	sweeping sync.Mutex        // held by the one that looks at all processes
	stuck    map[identity]bool // what could not be ended; guarded by sweeping

	mu   sync.Mutex
	live map[string]*Worker // by the value of Variable
}

// Worker is one worker, from before its start until nothing of it is left.
type Worker struct {
	tracker *Tracker
	mark    string
	began   uint64 // in the kernel's ticks since boot, as a process's start is

	// Guarded by tracker.mu.
	warm     uint64 // when it had started; 0 before
	used     bool
	ended    bool
	children []process // seen before it ended

	// Guarded by tracker.sweeping.
	swept bool
	err   error
}

// New makes a Tracker. container says that every process that loses its parent becomes
// a child of process 1, which starts nothing itself but this program (pid1.Owned).
func New(container bool) (*Tracker, error) {
	t := &Tracker{live: make(map[string]*Worker), stuck: make(map[identity]bool)}
	all, err := look()
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	self, found := all[os.Getpid()]
	if !found {
		return nil, errors.New("list the processes: /proc does not have this one; mount the /proc of its process namespace")
	}
	t.self = self
	t.owned = container
	for _, p := range all {
		// A program that the container's command started first, such as an X server:
		// what becomes an orphan later may be that one's.
		if p.parent == 1 && p.pid != self.pid {
			t.owned = false
		}
	}
	return t, nil
}

// Owns reports whether an orphan that no living worker can have started is a leftover,
// whatever its environment: true in a container in which there was nothing else when
// this program started. What somebody starts there by hand ("kubectl exec") is left
// alone while its own parents live.
func (t *Tracker) Owns() bool { return t.owned }

// Start returns a worker that is about to be started with Variable set to mark, which
// must be unique for all time.
func (t *Tracker) Start(mark string) *Worker {
	w := &Worker{tracker: t, mark: mark, began: now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live[mark] = w
	return w
}

// Warm says that the worker has started: until it is Used, it starts nothing more.
func (w *Worker) Warm() {
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	w.warm = now()
}

// Used says that a session begins to use the worker.
func (w *Worker) Used() {
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	w.used = true
}

// Remember notes the descendants of the worker's process, which lives: once that has
// ended, nothing shows any more whose children they were.
func (w *Worker) Remember(pid int) {
	found := descendants(pid)
	// Last: it was the worker's process all the time, and not another with its number.
	proc, err := procfs.NewProc(pid)
	if err != nil || (process{proc: proc}).mark() != w.mark {
		return
	}
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	w.children = append(w.children, found...)
}

// descendants are the descendants of a process, found from parent to child: an R has few,
// where a machine has hundreds of processes to look at.
func descendants(pid int) (found []process) {
	// A kernel without these files (CONFIG_PROC_CHILDREN) has the variable all the same.
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // that thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			proc, err := procfs.NewProc(child)
			if err != nil {
				continue // it has ended
			}
			if p, lives := read(proc); lives && p.parent == pid {
				found = append(append(found, p), descendants(child)...)
			}
		}
	}
	return found
}

// End ends everything that the worker has left, after its own process has ended. It
// returns when that is gone, and an error when something stays.
func (w *Worker) End() error {
	t := w.tracker
	t.mu.Lock()
	w.ended = true
	t.mu.Unlock()
	// Of many workers that end at once, one looks for all.
	t.sweeping.Lock()
	defer t.sweeping.Unlock()
	if !w.swept {
		t.sweep()
	}
	return w.err
}

// EndOf ends the processes of workers that a program which has itself ended has left.
// Their marks begin with prefix.
func (t *Tracker) EndOf(prefix string) error {
	t.sweeping.Lock()
	defer t.sweeping.Unlock()
	return t.end(func(all processes) map[int]process {
		found := make(map[int]process)
		for pid, p := range all {
			if strings.HasPrefix(p.mark(), prefix) {
				found[pid] = p
			}
		}
		return found
	})
}

// sweep ends what the workers that have ended have left.
func (t *Tracker) sweep() {
	t.mu.Lock()
	var ended []*Worker
	for _, w := range t.live {
		if w.ended {
			ended = append(ended, w)
		}
	}
	t.mu.Unlock()
	err := t.end(func(all processes) map[int]process { return t.leftovers(all, ended) })
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range ended {
		w.swept, w.err = true, err
		delete(t.live, w.mark)
	}
}

// leftovers are the processes that ended workers have left.
func (t *Tracker) leftovers(all processes, ended []*Worker) map[int]process {
	found := make(map[int]process)
	marks := make(map[string]bool)
	for _, w := range ended {
		marks[w.mark] = true
		for _, p := range w.children {
			if now, there := all[p.pid]; there && now.start == p.start {
				found[p.pid] = now
			}
		}
	}
	for pid, p := range all {
		if p.start < t.self.start { // nothing of ours: its environment is not even read
			continue
		}
		if marks[p.mark()] {
			found[pid] = p
		} else if t.owned && p.parent == 1 && pid != t.self.pid && t.unclaimed(all, p) {
			found[pid] = p
		}
	}
	for pid := range found {
		all.addDescendants(found, pid)
	}
	return found
}

// unclaimed reports whether no living worker can have started the orphan p.
func (t *Tracker) unclaimed(all processes, p process) bool {
	tree := map[int]process{p.pid: p}
	all.addDescendants(tree, p.pid)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, member := range tree {
		if w := t.live[member.mark()]; w != nil && !w.ended {
			return false
		}
	}
	for _, w := range t.live {
		// Ticks are 10 ms: the same tick is before and after.
		if !w.ended && w.began <= p.start && (w.used || w.warm == 0 || p.start <= w.warm) {
			return false
		}
	}
	return true
}

// How long killed processes may take to go, and how often to look. One that gives
// back gigabytes takes a while.
const (
	goneLimit = 5 * time.Second
	firstLook = time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// end kills what find finds until it finds nothing. What forks while it is looked at
// is found the next time.
func (t *Tracker) end(find func(processes) map[int]process) error {
	deadline := time.Now().Add(goneLimit)
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		all, err := look()
		if err != nil {
			return fmt.Errorf("list the processes: %w", err)
		}
		var errs []error
		left := 0
		for pid, p := range find(all) {
			if pid == 1 || pid == t.self.pid || t.stuck[p.identity()] {
				continue
			}
			left++
			err := p.kill()
			if err == nil && time.Now().After(deadline) {
				err = fmt.Errorf("process %d, which a session has left, is still there %s after SIGKILL", pid, goneLimit)
			}
			if err != nil {
				t.stuck[p.identity()] = true // one message, and no more waiting for it
				errs = append(errs, err)
			}
		}
		if left == 0 || len(errs) > 0 && len(errs) == left {
			return errors.Join(errs...)
		}
		time.Sleep(pause)
	}
}

// now is the time as the kernel gives that of a process's start: ticks of 10 ms since
// boot. Linux shows 100 in a second to programs on every architecture that Go has.
func now() uint64 {
	var ts unix.Timespec
	// CLOCK_BOOTTIME cannot fail on a kernel that Go runs on.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano() / int64(10*time.Millisecond))
}

// process is a process as it was when it was looked at.
type process struct {
	proc        procfs.Proc
	pid, parent int
	start       uint64
}

// identity tells it from every other process since boot.
type identity struct {
	pid   int
	start uint64
}

func (p process) identity() identity { return identity{p.pid, p.start} }

type processes map[int]process

// look lists the processes of this namespace, without zombies.
func look() (processes, error) {
	procs, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	all := make(processes, len(procs))
	for _, proc := range procs {
		if p, lives := read(proc); lives {
			all[p.pid] = p
		}
	}
	return all, nil
}

// read reads what a process is, false if it has ended, or only waits to be waited for.
func read(proc procfs.Proc) (process, bool) {
	stat, err := proc.Stat()
	if err != nil || stat.State == "Z" || stat.State == "X" {
		return process{}, false
	}
	return process{proc: proc, pid: stat.PID, parent: stat.PPID, start: stat.Starttime}, true
}

// addDescendants adds the descendants of pid to found.
func (all processes) addDescendants(found map[int]process, pid int) {
	for child, p := range all {
		if p.parent == pid {
			if _, known := found[child]; !known {
				found[child] = p
				all.addDescendants(found, child)
			}
		}
	}
}

// mark is the value of Variable in the environment that the process was started with,
// "" without one, for processes that have overwritten it (see the package's doc), and for processes of other users that do not show theirs.
func (p process) mark() string {
	environment, err := p.proc.Environ()
	if err != nil {
		return ""
	}
	for _, entry := range environment {
		if value, found := strings.CutPrefix(entry, Variable+"="); found {
			return value
		}
	}
	return ""
}

// kill kills the process, and no other that has its number by now.
func (p process) kill() error {
	handle, err := os.FindProcess(p.pid) // a pidfd, where the kernel has them
	if err != nil {
		return nil // it has ended
	}
	defer func() { _ = handle.Release() }()
	stat, err := p.proc.Stat()
	if err != nil || stat.Starttime != p.start {
		return nil // that one has ended
	}
	if err := handle.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end process %d (%s), which a session has left: %w", p.pid, stat.Comm, err)
	}
	return nil
}
