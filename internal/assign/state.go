package assign

import "fmt"

// State is what a slot is in. Exactly one holds at any time.
type State uint8

const (
	// Gone: the slot has no connection. It is the first and the last state.
	Gone State = iota

	// No session has the worker. The first five are what the slot's agent reports.

	Installing // packages
	Starting   // R
	Failed     // R does not start
	Draining   // the agent is going away
	Warm       // ready and free
	Cordoned   // ready, and granted to nobody: see Cordon

	// A tenant holds the worker, and its session has not used it.

	Reserved
	Claimed   // reserved, and asked back for another tenant
	Returning // given back; its agent is being told

	// A session uses the worker.

	Bound
	Spare     // its session does not need it at present
	Idle      // the same, and has not for long: anyone may have it
	Recalled  // was spare or idle, and is asked back for a want
	Evicted   // was idle, and is asked back for nobody: its agent is to be cordoned
	Departing // its agent drains: it ends with the call under way

	// The session is over for the worker.

	Leaving // decided; its holder still has to say so
	Ending  // its agent ends R
)

// Phase is what people see of a State.
type Phase string

// A slot goes from installing or starting to warm, reserved, bound, ending, and back to
// starting; failed, cordoned and draining lead out of that circle.
const (
	PhaseInstalling Phase = "installing"
	PhaseStarting   Phase = "starting"
	PhaseWarm       Phase = "warm"
	PhaseReserved   Phase = "reserved"
	PhaseBound      Phase = "bound"
	PhaseEnding     Phase = "ending"
	PhaseFailed     Phase = "failed"
	PhaseCordoned   Phase = "cordoned"
	PhaseDraining   Phase = "draining"
)

// Phases lists every Phase, in the order of a worker's life.
var Phases = []Phase{PhaseInstalling, PhaseStarting, PhaseWarm, PhaseReserved, PhaseBound, PhaseEnding, PhaseFailed, PhaseCordoned, PhaseDraining}

// states is what there is to know of each State, and the only list of legal transitions. Not
// listed are the two that every state has: to Starting, when the agent reports that the worker is
// over or starts again, except from Draining; and to Gone, when its connection ends.
var states = [...]struct {
	name  string
	phase Phase
	next  []State
}{
	Gone:       {"gone", "", nil},
	Starting:   {"starting", PhaseStarting, []State{Installing, Failed, Draining, Warm}},
	Installing: {"installing", PhaseInstalling, nil},
	Failed:     {"failed", PhaseFailed, nil},
	Draining:   {"draining", PhaseDraining, nil},
	Warm:       {"warm", PhaseWarm, []State{Cordoned, Reserved}},
	Cordoned:   {"cordoned", PhaseCordoned, []State{Warm}},
	Reserved:   {"reserved", PhaseReserved, []State{Claimed, Returning, Warm, Bound, Leaving}},
	Claimed:    {"claimed", PhaseReserved, []State{Reserved, Returning, Warm, Bound, Leaving}},
	Returning:  {"returning", PhaseReserved, []State{Warm}},
	Bound:      {"bound", PhaseBound, []State{Spare, Idle, Departing, Leaving}},
	Spare:      {"spare", PhaseBound, []State{Bound, Idle, Recalled, Departing, Leaving}},
	Idle:       {"idle", PhaseBound, []State{Bound, Recalled, Evicted, Departing, Leaving}},
	Recalled:   {"recalled", PhaseBound, []State{Bound, Spare, Idle, Reserved, Departing, Leaving}},
	Evicted:    {"evicted", PhaseBound, []State{Bound, Departing, Leaving}},
	Departing:  {"departing", PhaseBound, []State{Leaving}},
	Leaving:    {"leaving", PhaseEnding, []State{Ending}},
	Ending:     {"ending", PhaseEnding, nil},
}

func (s State) String() string {
	if int(s) < len(states) {
		return states[s].name
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Phase is what people see of s, "" for Gone.
func (s State) Phase() Phase { return states[s].phase }

// bound reports whether a session uses the worker of a slot in s.
func (s State) bound() bool { return s >= Bound && s <= Departing }

// used reports whether a tenant has use for the worker of a slot in s.
func (s State) used() bool { return s == Reserved || s == Claimed || s.bound() && s != Idle }

// move is the only place where a slot's state changes.
func (c *Core) move(s *Slot, to State) {
	from := s.state
	if c.moved != nil && from != to {
		c.moved(from, to)
	}
	if from.Phase() != to.Phase() {
		c.phases[from.Phase()]--
		c.phases[to.Phase()]++
		s.since = c.now
	}
	s.state = to
	if left, entered := c.line(from), c.line(to); left != entered {
		if left != nil {
			left.remove(s)
		}
		if to == Warm {
			s.freeSince = c.now
		}
		if entered != nil {
			entered.put(s)
		}
	}
	c.recount(s)
}

// line is the list that slots in state are in, nil for none.
func (c *Core) line(state State) *line {
	switch state {
	case Warm:
		return &c.free
	case Spare, Idle:
		return &c.spare
	}
	return nil
}
