// Package lease keeps the book of leases: a session asks for a number of workers,
// gets a port of its own and hears how many are reserved for it, and connects its
// cluster there when all are. A lease that can never be met, or is not in time, is
// refused with a text that says why; one that nobody asks for or connects to ends.
package lease

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// State is what becomes of a lease.
type State string

// A lease goes from waiting to ready to connected. Refused and ended are its ends.
const (
	Waiting   State = "waiting"   // not all its workers are reserved yet
	Ready     State = "ready"     // its session may connect, on the port that it has now
	Connected State = "connected" // its cluster is there
	Refused   State = "refused"   // its workers did not become ready; the message says why
	Ended     State = "ended"     // the message says why
)

// States lists every State that a lease can be in while it holds something.
var States = []State{Waiting, Ready, Connected}

const (
	// MaxLeases is how many there may be at once: a tenth of the ports.
	MaxLeases = 100
	// renewal is how long a lease lasts that nobody asks for: a session that has died
	// keeps workers from others no longer than that.
	renewal = 30 * time.Second
	// MaxWait is how long a question may wait for news.
	MaxWait = 30 * time.Second
	// connectLimit is how long workers stand by for a session that was told to connect.
	connectLimit = 60 * time.Second
	// rememberFor is how long one hears of a lease that is over, mostPast of how many.
	rememberFor = time.Minute
	mostPast    = 100
	// portRest is how long a port is not handed out again: R's listener on it, and the
	// broker's memory of it, may be a moment older than the end of its lease.
	portRest = time.Second
	// acquiring is how many workers one lease waits for at the same time: each takes a
	// round trip to its agent, and nobody needs 10,000 goroutines that wait in line.
	acquiring = 32
	// pace is how often leases are looked after.
	pace = time.Second
)

// Worker is a reserved worker, just what this package needs of it.
type Worker interface {
	Name() string
	// Over is closed when the worker has ended.
	Over() <-chan struct{}
	// Recalled is closed when somebody who comes before the lease waits for it.
	Recalled() <-chan struct{}
	// Release gives it back; it does nothing for one that is over or in use.
	Release()
}

// Reserver is where workers come from.
type Reserver interface {
	// NewTenant makes the tenant of a lease, which its cluster takes over.
	NewTenant(name string) *pool.Tenant
	// Acquire waits for a worker and reserves it. It fails only when ctx ends.
	Acquire(ctx context.Context, want pool.Want) (Worker, error)
	// Complete says that the tenant has all its workers and keeps them.
	Complete(tenant *pool.Tenant)
}

// Limits is what there is of workers, and what there may be.
type Limits interface {
	// Check says why so many workers of the group can never be had, as a Refusal that
	// wraps ErrNever, or nil if they may be. workers and share are as in Request.
	Check(uid uint32, group string, workers int, share bool) error
	// Usual is how many a user's lease gets that names no number. returned are the ports of
	// clusters that its session has just given up.
	Usual(uid uint32, group string, returned []uint16) int
	// Coming says whether workers of the group are on their way, and what is known of
	// them: "2 of 6 pods run; future-worker-x: ContainerCreating". To who takes turns so
	// are those that others use.
	Coming(group string, share bool) (text string, coming bool)
	// Missing is the text of a refusal: what there is, and what is not and why.
	Missing(group string, held, wanted int, waited time.Duration) string
}

// Terms are what a lease entitles to.
type Terms struct {
	ID      string
	UID     uint32
	Port    uint16
	Group   string
	Workers int
	Share   bool
	Tenant  *pool.Tenant
}

// Snapshot describes a lease at one moment.
type Snapshot struct {
	ID      string `json:"id"`
	Port    uint16 `json:"port"`
	UID     uint32 `json:"uid"`
	Label   string `json:"label,omitempty"`
	Workers int    `json:"workers"`
	Group   string `json:"group"`
	Share   bool   `json:"share"`
	State   State  `json:"state"`
	// Ready is how many workers were reserved for it.
	Ready int       `json:"ready"`
	Since time.Time `json:"since"`
	// Expires is when it ends unless it is renewed or, once ready, connected to.
	Expires time.Time `json:"expires,omitzero"`
	Message string    `json:"message"`
	// Version changes with state, ready and message.
	Version int `json:"version"`
}

// lease is one of the book. What changes of it is guarded by Manager.mu.
type lease struct {
	Terms
	label string
	since time.Time
	// gathering ends, by leaveOff, when no more workers are to be reserved: the lease is
	// over, or a node of its cluster has found none.
	gathering context.Context
	leaveOff  context.CancelFunc

	state   State
	held    []*place // whose workers nobody has taken yet
	taken   int
	message string
	news    string // of workers on their way
	version int
	changed chan struct{} // closed and replaced with each change

	renewed time.Time // when it was last asked for
	askers  int       // who wait for news at present
	hope    time.Time // when it last got a worker, or one was on its way
	settled time.Time // when it became ready, or was over
}

// place is a lease's for one worker. The goroutine of fill owns the worker until it
// is taken.
type place struct {
	worker Worker
	taken  chan struct{} // closed by Take
}

// needs is how many workers have to be reserved: nodes that take turns start with one.
func (l *lease) needs() int {
	if l.Share {
		return 1
	}
	return l.Workers
}

// want is what each of its places asks for. Its workers are of use only together.
func (l *lease) want() pool.Want {
	return pool.Want{Tenant: l.Tenant, Group: l.Group, Whole: !l.Share, Total: l.Workers}
}

func (l *lease) live() bool { return l.state != Refused && l.state != Ended }

func (l *lease) ready() int { return len(l.held) + l.taken }

// remove forgets p, unless its worker has been taken.
func (l *lease) remove(p *place) bool {
	i := slices.Index(l.held, p)
	if i < 0 {
		return false
	}
	l.held = slices.Delete(l.held, i, i+1)
	if l.live() {
		l.tell()
	}
	return true
}

// tell notes a change.
func (l *lease) tell() {
	if l.state == Waiting {
		l.message = fmt.Sprintf("%d of %d workers are ready", l.ready(), l.needs())
		if l.news != "" {
			l.message += "; " + l.news
		}
	}
	l.version++
	close(l.changed)
	l.changed = make(chan struct{})
}

// expires is when nobody's interest ends it, zero for never.
func (l *lease) expires() (at time.Time) {
	if l.state != Waiting && l.state != Ready {
		return at
	}
	at = l.renewed.Add(renewal)
	if connect := l.settled.Add(connectLimit); l.state == Ready && connect.Before(at) {
		at = connect
	}
	return at
}

func (l *lease) snapshot() Snapshot {
	return Snapshot{
		ID: l.ID, Port: l.Port, UID: l.UID, Label: l.label, Workers: l.Workers, Group: l.Group, Share: l.Share,
		State: l.state, Ready: l.ready(), Since: l.since, Expires: l.expires(), Message: l.message, Version: l.version,
	}
}
