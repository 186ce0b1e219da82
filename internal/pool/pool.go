// Package pool holds the workers that agents park at the rendezvous: it speaks the
// rendezvous' side of the protocol of internal/link, knows what every slot is
// doing and why, and hands warm workers out, first come, first served.
package pool

import (
	"context"
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

// Pool is the set of all slots. Its lock guards every slot's mutable fields; it
// is never held during network I/O.
type Pool struct {
	config Config

	mu      sync.Mutex
	slots   map[key]*slot
	warm    []*slot   // free, longest waiting first
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
	p := &Pool{config: config, slots: make(map[key]*slot), counts: make(map[State]int)}
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
		if err = p.reserve(ctx, w); err == nil {
			return w, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

func (p *Pool) take(ctx context.Context) (*Worker, error) {
	p.mu.Lock()
	if len(p.warm) > 0 {
		w := p.hold(p.warm[0])
		p.warm = p.warm[1:]
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
	// It was given in this very moment; give it to the next, unless it has ended.
	if w := <-wait.given; w.slot.holder == w {
		w.slot.finishUse()
		p.offer(w.slot)
	}
	return nil, ctx.Err()
}

// hold gives s to a new holder. It happens with the choice of s, under one lock: a
// worker that ends and is replaced before its holder has said a word is then not
// given to a second one. Called with the lock held.
func (p *Pool) hold(s *slot) *Worker {
	p.next++
	s.holder = &Worker{slot: s, number: p.next, confirmed: make(chan struct{}), over: make(chan struct{})}
	p.setState(s, Reserved, "")
	return s.holder
}

// offer makes s, which nobody has touched, available. Called with the lock held.
func (p *Pool) offer(s *slot) {
	if s.gone() || s.state == Draining {
		return
	}
	if len(p.waiting) > 0 {
		first := p.waiting[0]
		p.waiting = p.waiting[1:]
		first.given <- p.hold(s)
		return
	}
	p.setState(s, Warm, "")
	p.warm = append(p.warm, s)
}

// withdraw takes s off the free list. Called with the lock held.
func (p *Pool) withdraw(s *slot) {
	for i, other := range p.warm {
		if other == s {
			p.warm = append(p.warm[:i], p.warm[i+1:]...)
			return
		}
	}
}

// setState is the only place where a worker's state changes. Called with the lock
// held.
func (p *Pool) setState(s *slot, state State, reason string) {
	if s.gone() && state != "" {
		return // a last frame of a connection that was replaced
	}
	if s.state != "" {
		p.counts[s.state]--
	}
	if state != "" {
		p.counts[state]++
	}
	if s.state != state {
		s.since = time.Now()
	}
	s.state, s.reason = state, reason
}

func (p *Pool) add(s *slot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key{s.hello.Instance, s.hello.Slot}
	if old := p.slots[k]; old != nil {
		// The agent knows that its old connection is dead before we do.
		p.remove(old)
		old.conn.Close()
	}
	if len(p.slots) >= p.config.MaxWorkers {
		return fmt.Errorf("the pool is full: %d workers, the limit of --max-workers", len(p.slots))
	}
	p.slots[k] = s
	p.setState(s, Starting, "")
	return nil
}

// remove forgets s. Called with the lock held, more than once for a replaced s.
func (p *Pool) remove(s *slot) {
	if s.gone() {
		return
	}
	close(s.lost)
	p.withdraw(s)
	p.setState(s, "", "")
	delete(p.slots, key{s.hello.Instance, s.hello.Slot})
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
	// Cluster is what Bind was given: who has the worker.
	Cluster string `json:"cluster,omitempty"`
}

// Workers describes every slot, sorted by agent and slot.
func (p *Pool) Workers() []Snapshot {
	p.mu.Lock()
	all := make([]Snapshot, 0, len(p.slots))
	for _, s := range p.slots {
		cluster := ""
		if s.holder != nil {
			cluster = s.holder.cluster
		}
		all = append(all, Snapshot{
			Agent: s.hello.Agent, Slot: s.hello.Slot, Group: s.hello.Group,
			Address: s.conn.RemoteAddr().String(), State: s.state, Reason: s.reason,
			Since: s.since, PID: s.pid, Build: s.hello.Build, LastExit: s.lastExit, Cluster: cluster,
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
	for _, state := range States {
		states[state] = p.counts[state]
	}
	return states, len(p.waiting)
}

// busy is the time that each slot's workers have been busy. An agent that was
// restarted may be there twice for a moment, under one name.
func (p *Pool) busy() map[string]time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]time.Duration, len(p.slots))
	for _, s := range p.slots {
		all[s.name()] += s.busy
	}
	return all
}
