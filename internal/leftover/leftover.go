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
//
// What a leftover is, decide.go says; proc.go reads the processes.
package leftover

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

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
	life    life // guarded by tracker.mu

	// Guarded by tracker.sweeping.
	swept bool
	err   error
}

// New makes a Tracker. container says that every process that loses its parent becomes
// a child of process 1, which starts nothing itself but this program (pid1.Owned).
func New(container bool) (*Tracker, error) {
	t := &Tracker{live: make(map[string]*Worker), stuck: make(map[identity]bool)}
	all, err := look(noMarks)
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
	w := &Worker{tracker: t, life: life{mark: mark, began: now()}}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live[mark] = w
	return w
}

// Warm says that the worker has started: until it is Used, it starts nothing more.
func (w *Worker) Warm() {
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	w.life.warm = now()
}

// Used says that a session begins to use the worker.
func (w *Worker) Used() {
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	w.life.used = true
}

// Remember notes the descendants of the worker's process, which lives: once that has
// ended, nothing shows any more whose children they were.
func (w *Worker) Remember(pid int) {
	found := descendants(pid)
	// Last: it was the worker's process all the time, and not another with its number.
	if markOf(pid) != w.life.mark {
		return
	}
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	w.life.children = append(w.life.children, found...)
}

// End ends everything that the worker has left, after its own process has ended. It
// returns when that is gone, and an error when something stays.
func (w *Worker) End() error {
	t := w.tracker
	t.mu.Lock()
	w.life.ended = true
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
	return t.end(allMarks, func(all processes) map[int]process { return all.marked(prefix) })
}

// sweep ends what the workers that have ended have left.
func (t *Tracker) sweep() {
	ended := t.ended()
	err := t.end(t.self.start, func(all processes) map[int]process {
		return leftovers(all, t.remembered(ended))
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range ended {
		w.swept, w.err = true, err
		delete(t.live, w.life.mark)
	}
}

func (t *Tracker) ended() (ended []*Worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.live {
		if w.life.ended {
			ended = append(ended, w)
		}
	}
	return ended
}

// remembered is what is known of the workers, those that are being swept among them. It is
// called after the processes were read: a worker that starts in between would else be
// unknown, and what it has started a leftover.
func (t *Tracker) remembered(swept []*Worker) memory {
	m := memory{self: t.self.identity, owned: t.owned}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range swept {
		m.ended = append(m.ended, w.life)
	}
	for _, w := range t.live {
		if !w.life.ended {
			m.living = append(m.living, w.life)
		}
	}
	return m
}

// How long killed processes may take to go, and how often to look. One that gives
// back gigabytes takes a while.
const (
	goneLimit = 5 * time.Second
	firstLook = time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// end kills what find finds until it finds nothing, as a rule in the first look. What forks
// while it is looked at is found the next time. The marks are read of processes that
// started at since or later.
func (t *Tracker) end(since uint64, find func(processes) map[int]process) error {
	deadline := time.Now().Add(goneLimit)
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		all, err := look(since)
		if err != nil {
			return fmt.Errorf("list the processes: %w", err)
		}
		var errs []error
		left := 0
		for pid, p := range find(all) {
			if pid == 1 || pid == t.self.pid || t.stuck[p.identity] {
				continue
			}
			left++
			err := p.kill()
			if err == nil && time.Now().After(deadline) {
				err = fmt.Errorf("process %d, which a session has left, is still there %s after SIGKILL", pid, goneLimit)
			}
			if err != nil {
				t.stuck[p.identity] = true // one message, and no more waiting for it
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
