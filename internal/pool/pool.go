// Package pool holds the workers that agents park at the rendezvous: it speaks the
// rendezvous' side of the protocol of internal/link, knows what every slot is
// doing and why, and hands warm workers out, first come, first served.
package pool

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"go.uber.org/zap"
)

// State is what a slot's worker is doing.
type State string

// A slot goes from installing or starting to warm, reserved, bound, ending, and
// back to starting; failed and draining lead out of it.
const (
	Installing State = "installing"
	Starting   State = "starting"
	Warm       State = "warm"
	Reserved   State = "reserved"
	Bound      State = "bound"
	Ending     State = "ending" // its session is over, its R is being ended
	Failed     State = "failed"
	Draining   State = "draining"
)

// States lists every State, in the order of a worker's life.
var States = []State{Installing, Starting, Warm, Reserved, Bound, Ending, Failed, Draining}

// ErrClosed is returned by Acquire when the pool has been closed.
var ErrClosed = errors.New("the pool is closed")

// Config is what a Pool needs.
type Config struct {
	Log     *zap.Logger
	Metrics *Metrics
	Build   string // this program's version, told to agents
	// MaxWorkers bounds the slots of all agents together.
	MaxWorkers int
	// ReserveLimit is how long an agent may take to confirm a reservation. Its
	// worker may be dead after that, and its connection is closed.
	ReserveLimit time.Duration
}

// Pool is the set of all slots. Its lock guards every Worker's mutable fields; it
// is never held during network I/O.
type Pool struct {
	config Config

	mu      sync.Mutex
	workers map[key]*Worker
	warm    []*Worker // free, longest waiting first
	waiting []*waiter // for a warm worker, first come first
	counts  map[State]int
	next    uint32 // reservation numbers
}

type key struct {
	instance string
	slot     int
}

type waiter struct {
	given chan *Worker // buffered: a worker is given at most once
}

// New makes an empty pool.
func New(config Config) *Pool {
	p := &Pool{config: config, workers: make(map[key]*Worker), counts: make(map[State]int)}
	config.Metrics.attach(p)
	return p
}

// Acquire takes a warm worker out of the pool, waiting for one until ctx ends, and
// reserves it: its agent has just confirmed that it is there and untouched.
func (p *Pool) Acquire(ctx context.Context) (*Worker, error) {
	for {
		w, err := p.take(ctx)
		if err != nil {
			return nil, err
		}
		if err := w.reserve(ctx); err == nil {
			return w, nil
		} else if ctx.Err() != nil {
			w.Release()
			return nil, ctx.Err()
		}
	}
}

func (p *Pool) take(ctx context.Context) (*Worker, error) {
	p.mu.Lock()
	if len(p.warm) > 0 {
		w := p.warm[0]
		p.warm = p.warm[1:]
		p.setState(w, Reserved, "")
		p.mu.Unlock()
		return w, nil
	}
	wait := &waiter{given: make(chan *Worker, 1)}
	p.waiting = append(p.waiting, wait)
	p.mu.Unlock()

	select {
	case w := <-wait.given:
		return w, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.waiting {
		if other == wait {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			return nil, ctx.Err()
		}
	}
	// It was given in this very moment; give it to the next.
	p.offer(<-wait.given)
	return nil, ctx.Err()
}

// offer makes w, which nobody has touched, available. Called with the lock held.
func (p *Pool) offer(w *Worker) {
	if w.gone() || w.state == Draining {
		return
	}
	if len(p.waiting) > 0 {
		first := p.waiting[0]
		p.waiting = p.waiting[1:]
		p.setState(w, Reserved, "")
		first.given <- w
		return
	}
	p.setState(w, Warm, "")
	p.warm = append(p.warm, w)
}

// withdraw takes w off the free list. Called with the lock held.
func (p *Pool) withdraw(w *Worker) {
	for i, other := range p.warm {
		if other == w {
			p.warm = append(p.warm[:i], p.warm[i+1:]...)
			return
		}
	}
}

// setState is the only place where a worker's state changes. Called with the lock
// held.
func (p *Pool) setState(w *Worker, state State, reason string) {
	if w.state != "" {
		p.counts[w.state]--
	}
	if state != "" {
		p.counts[state]++
	}
	if w.state != state {
		w.since = time.Now()
	}
	w.state, w.reason = state, reason
}

func (p *Pool) add(w *Worker) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key{w.hello.Instance, w.hello.Slot}
	if old := p.workers[k]; old != nil {
		// The agent knows that its old connection is dead before we do.
		p.remove(old)
		old.conn.Close()
	}
	if len(p.workers) >= p.config.MaxWorkers {
		return fmt.Errorf("the pool is full: %d workers, the limit of --max-workers", len(p.workers))
	}
	p.workers[k] = w
	p.setState(w, Starting, "")
	return nil
}

// remove forgets w. Called with the lock held, more than once for a replaced w.
func (p *Pool) remove(w *Worker) {
	if w.gone() {
		return
	}
	close(w.lost)
	p.withdraw(w)
	p.setState(w, "", "")
	delete(p.workers, key{w.hello.Instance, w.hello.Slot})
}

// Snapshot describes one slot at one moment.
type Snapshot struct {
	Agent   string    `json:"agent"`
	Slot    int       `json:"slot"`
	Group   string    `json:"group,omitempty"`
	Address string    `json:"address"`
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Since   time.Time `json:"since"`
	PID     int       `json:"pid,omitempty"`
	Build   string    `json:"build,omitempty"`
	// LastExit says how the slot's previous worker ended, when nobody had asked
	// it to.
	LastExit string `json:"lastExit,omitempty"`
	// User is what Bind was given: who has the worker.
	User any `json:"-"`
}

// Workers describes every slot, sorted by agent and slot.
func (p *Pool) Workers() []Snapshot {
	p.mu.Lock()
	all := make([]Snapshot, 0, len(p.workers))
	for _, w := range p.workers {
		all = append(all, Snapshot{
			Agent: w.hello.Agent, Slot: w.hello.Slot, Group: w.hello.Group,
			Address: w.conn.RemoteAddr().String(), State: w.state, Reason: w.reason,
			Since: w.since, PID: w.pid, Build: w.hello.Build, LastExit: w.lastExit, User: w.user,
		})
	}
	p.mu.Unlock()
	sort.Slice(all, func(i, j int) bool {
		if all[i].Agent != all[j].Agent {
			return all[i].Agent < all[j].Agent
		}
		return all[i].Slot < all[j].Slot
	})
	return all
}

// Counts says how many slots are in each State, and how many callers wait in
// Acquire.
func (p *Pool) Counts() (states map[State]int, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	states = make(map[State]int, len(States))
	for _, s := range States {
		states[s] = p.counts[s]
	}
	return states, len(p.waiting)
}
