package lease

import "errors"

// What a request can meet with. A Refusal wraps ErrNever or ErrBusy.
var (
	ErrNever   = errors.New("it can never be met")
	ErrBusy    = errors.New("not at present")
	ErrUnknown = errors.New("there is no such lease: it has ended, or the rendezvous was restarted")
	ErrOwner   = errors.New("the lease belongs to another user")
	ErrEnding  = errors.New("the rendezvous is ending")
)

// Reason is why a lease was refused, a label of the metric.
type Reason string

// The reasons.
const (
	NoGroup   Reason = "group"       // there is no such group
	TooMany   Reason = "maximum"     // more than the group's maximum
	OverPool  Reason = "max_workers" // more than --max-workers
	OverCap   Reason = "cap"         // more than one session may have
	Crowded   Reason = "crowded"     // too many leases
	NoPort    Reason = "no_port"     // no port is free
	NoWorkers Reason = "no_workers"  // they did not become ready
)

// Reasons lists every Reason.
var Reasons = []Reason{NoGroup, TooMany, OverPool, OverCap, Crowded, NoPort, NoWorkers}

// Refusal is the answer to a request that is not met.
type Refusal struct {
	Kind   error // ErrNever or ErrBusy
	Reason Reason
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

// Unwrap returns the Kind.
func (r *Refusal) Unwrap() error { return r.Kind }
