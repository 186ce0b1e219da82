// Package pool holds the workers that agents park at the rendezvous: it speaks the
// rendezvous' side of the protocol of internal/link, knows what every slot is
// doing and why, and hands warm workers out: to the lowest rank first, and within
// a rank first come, first served.
package pool

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"go.uber.org/zap"
)

// State is what a slot's worker is doing.
type State string

// A slot goes from installing or starting to warm, reserved, bound, ending, and
// back to starting; failed, cordoned and draining lead out of it.
const (
	Installing State = "installing"
	Starting   State = "starting"
	Warm       State = "warm"
	Reserved   State = "reserved"
	Bound      State = "bound"
	Ending     State = "ending" // its session is over, its R is being ended
	Failed     State = "failed"
	Cordoned   State = "cordoned" // warm, and given to nobody: see Pool.Cordon
	Draining   State = "draining"
)

// States lists every State, in the order of a worker's life.
var States = []State{Installing, Starting, Warm, Reserved, Bound, Ending, Failed, Cordoned, Draining}

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
	// Why says, if it can, what became of an agent whose connection was lost just
	// now: it may wait a moment to find out, while the session that lost a worker
	// waits for its R error. May be nil.
	Why func(ctx context.Context, agent string) string
	// EndLimit is how long an agent may take to end the worker of a session that
	// is over; its connection is closed then. Zero means 15 s: R may be in the
	// middle of a call, and is told twice.
	EndLimit time.Duration
}

// Pool is the set of all slots. Its lock guards every slot's mutable fields; it
// is never held during network I/O.
type Pool struct {
	config Config

	mu      sync.Mutex
	slots   map[key]*slot
	agents  map[string][]*slot // by the agent's name
	cordons map[string]bool    // names of agents, see Cordon
	warm    []*slot            // free, longest waiting first
	waiting []*waiter          // for a warm worker, in their order
	counts  map[State]int
	next    uint32           // reservation numbers
	arrived uint64           // numbers the calls of Acquire
	highest int              // rank that has called it
	spare   map[*Worker]bool // bound workers that their holders do not need at present
}

type key struct {
	instance string
	slot     int
}

// place is where a caller of Acquire stands in line.
type place struct {
	rank    int
	arrived uint64
}

func (a place) before(b place) bool {
	return a.rank < b.rank || a.rank == b.rank && a.arrived < b.arrived
}

type waiter struct {
	place
	given chan *Worker // buffered: a worker is given at most once
}

// New makes an empty pool.
func New(config Config) *Pool {
	if config.EndLimit == 0 {
		config.EndLimit = 15 * time.Second
	}
	p := &Pool{
		config: config, slots: make(map[key]*slot), counts: make(map[State]int), spare: make(map[*Worker]bool),
		agents: make(map[string][]*slot), cordons: make(map[string]bool),
	}
	config.Metrics.attach(p)
	return p
}

// Acquire takes a warm worker out of the pool, waiting for one until ctx ends, and
// reserves it: its agent has just confirmed that it is there and untouched. Lower
// ranks come first. For a caller that waits, a worker which one of a higher rank
// has not bound yet is recalled (see Worker.Recalled): of two sessions that take
// workers at the same time, one gets all it needs, where each would else hold half.
func (p *Pool) Acquire(ctx context.Context, rank int) (*Worker, error) {
	p.mu.Lock()
	p.arrived++
	p.highest = max(p.highest, rank)
	at := place{rank, p.arrived}
	p.mu.Unlock()
	for {
		w, err := p.take(ctx, at)
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

func (p *Pool) take(ctx context.Context, at place) (*Worker, error) {
	p.mu.Lock()
	if len(p.warm) > 0 {
		w := p.hold(p.warm[0], at)
		p.warm = p.warm[1:]
		p.mu.Unlock()
		return w, nil
	}
	wait := &waiter{place: at, given: make(chan *Worker, 1)}
	behind, _ := slices.BinarySearchFunc(p.waiting, at, func(w *waiter, at place) int {
		if w.before(at) {
			return -1
		}
		return 1
	})
	p.waiting = slices.Insert(p.waiting, behind, wait)
	p.recall()
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
func (p *Pool) hold(s *slot, at place) *Worker {
	p.next++
	s.holder = &Worker{
		slot: s, place: at, number: p.next, confirmed: make(chan struct{}),
		recalled: make(chan struct{}), over: make(chan struct{}),
	}
	p.setState(s, Reserved, "")
	return s.holder
}

// offer makes s, which nobody has touched, available. Called with the lock held.
func (p *Pool) offer(s *slot) {
	if s.gone() || s.state == Draining {
		return
	}
	if p.cordons[s.hello.Agent] {
		p.setState(s, Cordoned, "")
		return
	}
	if len(p.waiting) > 0 {
		first := p.waiting[0]
		p.waiting = p.waiting[1:]
		first.given <- p.hold(s, first.place)
		return
	}
	p.setState(s, Warm, "")
	p.warm = append(p.warm, s)
}

// recall asks for workers back for the callers that wait: spare ones for anybody,
// untouched ones for callers that come before their holders, the last in line first.
// Called with the lock held, when a caller begins to wait, when a worker becomes
// spare, and when a recalled worker ends without coming back.
func (p *Pool) recall() {
	if len(p.waiting) == 0 || p.waiting[0].rank >= p.highest && len(p.spare) == 0 {
		return // as a rule: whoever waits came last
	}
	var untouched []*Worker
	coming := 0
	for _, s := range p.slots {
		if s.holder == nil {
			continue
		}
		switch {
		case s.holder.kept:
		case s.holder.isRecalled():
			coming++
		case s.state == Reserved:
			untouched = append(untouched, s.holder)
		}
	}
	slices.SortFunc(untouched, func(a, b *Worker) int {
		if b.before(a.place) {
			return -1
		}
		return 1
	})
	for w := range p.spare {
		if coming >= len(p.waiting) {
			return
		}
		close(w.recalled)
		delete(p.spare, w)
		coming++
	}
	for i, wait := range p.waiting[min(coming, len(p.waiting)):] {
		if i == len(untouched) || untouched[i].rank <= wait.rank {
			return
		}
		close(untouched[i].recalled)
	}
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
	p.enlist(s)
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
	p.delist(s)
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
