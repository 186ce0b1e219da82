// Package pool holds the workers that agents park at the rendezvous: it speaks the
// rendezvous' side of the protocol of internal/link, knows what every slot is
// doing and why, and hands warm workers out, in fair shares.
package pool

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
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
	// HelloLimit is how long an agent may take to introduce itself; 0 is
	// link.HandshakeLimit.
	HelloLimit time.Duration
	// Admit, if not nil, says why an agent is not to take part, from its first word and
	// its connection. It may wait a moment to find out.
	Admit func(ctx context.Context, conn *link.Conn, hello link.HelloMessage) error
	// TakeoverLimit is how long an agent waits for the end of another's connections that
	// has its name; zero means a second. What is left of a process that has ended is gone
	// after a round trip.
	TakeoverLimit time.Duration
	// Why says, if it can, what became of an agent whose connection was lost just
	// now: it may wait a moment to find out. May be nil.
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
	groups  map[string]*group
	cordons map[string]bool // names of agents, see Cordon
	warm    free
	queue   []*Tenant // that wait for a worker, oldest first
	counts  map[State]int
	number  uint32 // reservation numbers
	arrived uint64 // numbers the callers that wait
	tenants uint64 // how many there have been
	unmet   int    // callers that wait and that no worker is on its way to
	wholes  int    // callers that wait and need all that they ask for
	spare   spares
	look    *time.Timer // when a spare one may be somebody else's
	// untouched are the workers of tenants that need all they ask for, before they are bound.
	untouched map[*Worker]bool
}

// DefaultGroup is the group of agents that name none.
const DefaultGroup = "default"

// InGroup reports whether a worker of the group announced serves somebody who wants one
// of group, "" for any.
func InGroup(announced, group string) bool { return group == "" || announced == group }

type key struct {
	agent string
	slot  int
}

// New makes an empty pool.
func New(config Config) *Pool {
	if config.EndLimit == 0 {
		config.EndLimit = 15 * time.Second
	}
	if config.TakeoverLimit == 0 {
		config.TakeoverLimit = time.Second
	}
	p := &Pool{
		config: config, slots: make(map[key]*slot), counts: make(map[State]int),
		agents: make(map[string][]*slot), groups: make(map[string]*group), cordons: make(map[string]bool), untouched: make(map[*Worker]bool),
	}
	p.look = time.AfterFunc(time.Hour, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.balance()
	})
	p.look.Stop()
	config.Metrics.attach(p)
	return p
}

// Acquire takes a worker out of the pool, waiting for one until ctx ends, and reserves
// it: its agent has just confirmed that it is there and untouched, or it is one that
// another node of the tenant has set up as want says. Such a one is returned also when ctx
// ends at that moment: given back, it could only end.
func (p *Pool) Acquire(ctx context.Context, want Want) (*Worker, error) {
	for {
		w, err := p.take(ctx, want)
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

func (p *Pool) take(ctx context.Context, want Want) (*Worker, error) {
	p.mu.Lock()
	p.arrived++
	u := &waiter{Want: want, arrived: p.arrived, since: time.Now(), given: make(chan *Worker, 1)}
	p.enqueue(u)
	p.balance()
	p.mu.Unlock()

	select {
	case w := <-u.given:
		return w, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dequeue(u) {
		p.balance()
		return nil, ctx.Err()
	}
	// It was given in this very moment; give it to the next, unless it has ended.
	w := <-u.given
	switch {
	case w.slot.holder != w:
	case w.setUp != (SetUp{}):
		return w, nil
	default:
		w.slot.finishUse()
		p.offer(w.slot)
	}
	return nil, ctx.Err()
}

// hold gives s to a new holder. It happens with the choice of s, under one lock: a
// worker that ends and is replaced before its holder has said a word is then not
// given to a second one. Called with the lock held.
func (p *Pool) hold(s *slot, u *waiter) *Worker {
	p.number++
	s.holder = &Worker{
		slot: s, tenant: u.Tenant, number: p.number, since: time.Now(), confirmed: make(chan struct{}),
		recalled: make(chan struct{}), over: make(chan struct{}),
	}
	if u.Whole {
		p.untouched[s.holder] = true
	}
	u.Tenant.held++
	p.setState(s, Reserved, "")
	return s.holder
}

// offer makes s, which nobody has touched, available: to the one for whom it was made
// free, if that still waits. Called with the lock held.
func (p *Pool) offer(s *slot) {
	if s.gone() || s.state == Draining {
		return
	}
	if p.cordons[s.hello.Agent] {
		p.disinherit(s)
		p.setState(s, Cordoned, "")
		return
	}
	if u := s.heir; p.waits(u) {
		s.heir = nil
		p.give(s, u)
		return
	}
	s.heir = nil
	p.setState(s, Warm, "")
	p.warm.put(s)
	p.balance()
}

// disinherit ends that s is on its way to somebody. Called with the lock held.
func (p *Pool) disinherit(s *slot) {
	if u := s.heir; u != nil {
		s.heir = nil
		p.unpromise(u)
		p.recount(s)
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
	p.recount(s)
}

// remove forgets s. Called with the lock held, more than once for a replaced s.
func (p *Pool) remove(s *slot) {
	if s.gone() {
		return
	}
	close(s.lost)
	p.warm.remove(s)
	p.disinherit(s)
	p.setState(s, "", "")
	delete(p.slots, key{s.hello.Agent, s.hello.Slot})
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
	Node    string    `json:"node,omitempty"` // the machine
	// RVersion is R's, "" while the agent has not told.
	RVersion string `json:"rVersion,omitempty"`
	// MemoryBytes is the resident memory of the worker's process group, 0 while it
	// is not known.
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	// Deaths counts the slot's workers that ended without having been asked to, since
	// its connection is there.
	Deaths int `json:"deaths"`
	// LastExit says how the slot's previous worker ended, when nobody had asked
	// it to.
	LastExit string `json:"lastExit,omitempty"`
	// Cluster is the tenant that has the worker.
	Cluster string `json:"cluster,omitempty"`
}

// Name is the worker's, as Worker.Name has it.
func (s Snapshot) Name() string { return workerName(s.Agent, s.Slot) }

func workerName(agent string, slot int) string { return fmt.Sprintf("%s/%d", agent, slot) }

// Workers describes every slot, sorted by agent and slot.
func (p *Pool) Workers() []Snapshot {
	p.mu.Lock()
	all := make([]Snapshot, 0, len(p.slots))
	for _, s := range p.slots {
		cluster := ""
		if s.holder != nil {
			cluster = s.holder.tenant.name
		}
		all = append(all, Snapshot{
			Agent: s.hello.Agent, Slot: s.hello.Slot, Group: s.hello.Group,
			Address: s.address, State: s.state, Reason: s.reason,
			Since: s.since, PID: s.pid, Build: s.hello.Build, LastExit: s.lastExit, Cluster: cluster,
			Node: s.hello.Node, RVersion: s.hello.R, MemoryBytes: s.memory, Deaths: s.deaths,
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
	for _, t := range p.queue {
		waiting += len(t.waiting)
	}
	return states, waiting
}

// figures is the time that each slot's workers have been busy, and the memory that
// all take together and the largest.
func (p *Pool) figures() (busy map[string]time.Duration, memory, largest float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	busy = make(map[string]time.Duration, len(p.slots))
	for _, s := range p.slots {
		busy[s.name()] += s.busy
		memory += float64(s.memory)
		largest = max(largest, float64(s.memory))
	}
	return busy, memory, largest
}
