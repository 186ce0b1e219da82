// Package pool holds the workers that agents park at the rendezvous: it speaks the
// rendezvous' side of the protocol of internal/link, knows what every slot is
// doing and why, and hands warm workers out as internal/assign decides.
package pool

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/assign"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"go.uber.org/zap"
)

// What callers of Acquire use of internal/assign.
type (
	// State is what a slot's worker is doing, as people see it.
	State = assign.Phase
	// Want is what a caller of Acquire needs.
	Want = assign.Want
	// Tenant is who workers are shared among.
	Tenant = assign.Tenant
	// SetUp is a digest of the calls by which a worker was set up.
	SetUp = assign.SetUp
)

// The states of a slot's worker.
const (
	Installing = assign.PhaseInstalling
	Starting   = assign.PhaseStarting
	Warm       = assign.PhaseWarm
	Reserved   = assign.PhaseReserved
	Bound      = assign.PhaseBound
	Ending     = assign.PhaseEnding // its session is over, its R is being ended
	Failed     = assign.PhaseFailed
	Cordoned   = assign.PhaseCordoned // warm, and given to nobody: see Pool.Cordon
	Draining   = assign.PhaseDraining
)

// States lists every State, in the order of a worker's life.
var States = assign.Phases

// DefaultGroup is the group of agents that name none.
const DefaultGroup = assign.DefaultGroup

// InGroup reports whether a worker of the group announced serves somebody who wants one
// of group, "" for any.
func InGroup(announced, group string) bool { return assign.InGroup(announced, group) }

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

// Pool is the set of all slots. Its lock guards the core and every slot's mutable fields; it
// is never held during network I/O.
type Pool struct {
	config Config

	mu      sync.Mutex
	core    *assign.Core
	slots   map[key]*slot
	served  map[*assign.Slot]*slot        // the same, and those that were replaced, until Serve ends
	callers map[*assign.Want]chan *Worker // that wait in Acquire; buffered: each gets one worker
	alarm   *time.Timer                   // rings at due
	due     time.Time                     // zero for never
}

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
		config: config, core: assign.New(), slots: make(map[key]*slot),
		served: make(map[*assign.Slot]*slot), callers: make(map[*assign.Want]chan *Worker),
	}
	p.alarm = time.AfterFunc(time.Hour, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.due = time.Time{}
		p.apply(assign.Wake{})
	})
	p.alarm.Stop()
	config.Metrics.attach(p)
	return p
}

// apply has the core decide on what has happened, and tells those that it concerns. Called with
// the lock held.
func (p *Pool) apply(event assign.Event) {
	now := time.Now()
	for _, effect := range p.core.Apply(now, event) {
		switch e := effect.(type) {
		case assign.Granted:
			p.granted(e)
		case assign.Recall:
			close(p.holder(e.Grant).recalled)
		case assign.Restored:
			p.holder(e.Grant).recalled = make(chan struct{})
		case assign.Over:
			p.over(e.Grant)
		case assign.Finish:
			w := p.holder(e.Grant)
			w.ending = time.AfterFunc(p.config.EndLimit, w.Abort)
		}
	}
	due := p.core.NextWake()
	switch {
	case due.Equal(p.due):
	case due.IsZero():
		p.alarm.Stop()
	default:
		p.alarm.Reset(due.Sub(now))
	}
	p.due = due
}

// holder is the worker of a grant that is not over. Called with the lock held.
func (p *Pool) holder(g *assign.Grant) *Worker { return p.served[g.Slot].holder }

// granted gives the caller its worker. Called with the lock held.
func (p *Pool) granted(e assign.Granted) {
	s := p.served[e.Grant.Slot]
	s.holder = &Worker{
		slot: s, grant: e.Grant, confirmed: make(chan struct{}),
		recalled: make(chan struct{}), over: make(chan struct{}),
	}
	p.callers[e.Want] <- s.holder
	delete(p.callers, e.Want)
}

// over takes the worker from its holder. Called with the lock held.
func (p *Pool) over(g *assign.Grant) {
	s := p.served[g.Slot]
	w := s.holder
	if w.ending != nil {
		w.ending.Stop() // it would keep the whole session in memory
	}
	close(w.over)
	s.holder = nil
}

// NewTenant makes a tenant that is called name in snapshots and holds at most most
// workers at a time; 0 is no bound.
func (p *Pool) NewTenant(name string, most int) *Tenant {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.core.NewTenant(name, most)
}

// Complete says that the tenant has all that it asked for: it keeps what it has.
func (p *Pool) Complete(t *Tenant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apply(assign.Completed{Tenant: t})
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
	given := make(chan *Worker, 1)
	p.mu.Lock()
	p.callers[&want] = given
	p.apply(assign.Asked{Want: &want})
	p.mu.Unlock()

	select {
	case w := <-given:
		return w, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apply(assign.Withdrawn{Want: &want})
	delete(p.callers, &want)
	select {
	case w := <-given: // in this very moment
		if w.SetUp() != (SetUp{}) && !w.isOver() {
			return w, nil
		}
		p.apply(assign.Declined{Grant: w.grant})
	default:
	}
	return nil, ctx.Err()
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
		if holder := s.core.Holder(); holder != nil {
			cluster = holder.Name
		}
		all = append(all, Snapshot{
			Agent: s.hello.Agent, Slot: s.hello.Slot, Group: s.hello.Group,
			Address: s.address, State: s.core.State().Phase(), Reason: s.reason,
			Since: s.core.Since(), PID: s.pid, Build: s.hello.Build, LastExit: s.lastExit, Cluster: cluster,
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
	return p.core.Phases(), p.core.Waiting()
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
