package link

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Version is the protocol version a Hello announces.
const Version = 1

// HelloMessage introduces a slot.
type HelloMessage struct {
	Version int `json:"version"`
	// Agent names the worker agent: the pod's name on Kubernetes, else the host's.
	Agent string `json:"agent"`
	// Instance is random for each start of the agent, so that a restarted agent
	// is told from the one that it replaces.
	Instance string `json:"instance"`
	Slot     int    `json:"slot"`  // this slot, from 0
	Slots    int    `json:"slots"` // how many slots the agent has
	Group    string `json:"group,omitempty"`
	Build    string `json:"build,omitempty"` // the agent's own version
	Node     string `json:"node,omitempty"`  // the machine it runs on
	R        string `json:"r,omitempty"`     // R's version, if it is known yet
	// Silence is for how many seconds the agent bears to hear nothing, while what it
	// sends is acknowledged; 0 is SilenceLimit, acknowledged or not.
	Silence int `json:"silence,omitempty"`
}

// WelcomeMessage answers a HelloMessage.
type WelcomeMessage struct {
	Version int    `json:"version"`
	Build   string `json:"build,omitempty"`
	Usage   bool   `json:"usage,omitempty"` // Usage frames are taken
}

// RejectMessage says why a Hello is not served.
type RejectMessage struct {
	Reason string `json:"reason"`
}

// WorkerState is what a slot's worker is doing, as far as its agent decides it.
type WorkerState string

// The states an agent announces. Reserved and bound are the rendezvous' doing.
const (
	Installing WorkerState = "installing" // EXTRA_R_PACKAGES are being installed
	Starting   WorkerState = "starting"   // R is on its way
	Warm       WorkerState = "warm"       // R waits for its first message
	Failed     WorkerState = "failed"     // R could not start; Reason says why; a retry follows
	Draining   WorkerState = "draining"   // the agent is going away
)

// StateMessage announces a WorkerState.
type StateMessage struct {
	State  WorkerState `json:"state"`
	Reason string      `json:"reason,omitempty"`
	PID    int         `json:"pid,omitempty"` // of the R process, in the agent's PID namespace
	R      string      `json:"r,omitempty"`   // its version
}

// UsageMessage says what the worker takes.
type UsageMessage struct {
	MemoryBytes int64 `json:"memoryBytes"` // resident memory of its process group
}

// ExitMessage says how a worker ended.
type ExitMessage struct {
	// Cause is one line for people: "killed by the kernel: out of memory".
	Cause string `json:"cause"`
	// Kind is the sort of death that the metrics tell apart.
	Kind ExitKind `json:"kind,omitempty"`
	// Expected: its session had ended, or it was told to end.
	Expected bool     `json:"expected,omitempty"`
	Lines    []string `json:"lines,omitempty"` // the last lines it wrote
}

// ExitKind is a sort of death.
type ExitKind string

// The sorts of death.
const (
	ExitStatus   ExitKind = "exited" // by itself
	ExitSignal   ExitKind = "signal"
	ExitNoMemory ExitKind = "out_of_memory"
	// ExitDrained: its agent was told to end, and could not wait for its call any
	// longer. It was expected, but not by its session.
	ExitDrained ExitKind = "drained"
)

// maxLines bounds the lines of an ExitMessage, so that it fits into MaxControl
// even if JSON escapes every character of theirs with another one.
const maxLines = 10

func (m ExitMessage) bounded() ExitMessage {
	m.Cause = clean(m.Cause, 512)
	var lines []string
	for _, line := range m.Lines[max(0, len(m.Lines)-maxLines):] {
		lines = append(lines, clean(line, 512))
	}
	m.Lines = lines
	return m
}

// message is every payload that is JSON.
type message interface {
	HelloMessage | WelcomeMessage | RejectMessage | StateMessage | ExitMessage | UsageMessage
}

// Decode parses the JSON payload of a frame of type t. Text that will reach a
// log, a metric or an R session is bounded and freed of control characters here,
// since the other side is trusted to be a worker, not to be well.
func Decode[M message](t Type, payload []byte) (M, error) {
	var m M
	if err := json.Unmarshal(payload, &m); err != nil {
		// The error quotes what it does not understand.
		return *new(M), fmt.Errorf("%w: %s frame: %s", ErrProtocol, t, clean(err.Error(), 256))
	}
	switch m := any(&m).(type) {
	case *HelloMessage:
		m.Agent, m.Instance = clean(m.Agent, 253), clean(m.Instance, 64)
		m.Group, m.Build = clean(m.Group, 63), clean(m.Build, 64)
		m.Node, m.R = clean(m.Node, 253), clean(m.R, 32)
		m.Silence = min(max(m.Silence, 0), 3600)
		if m.Agent == "" || m.Instance == "" {
			return *new(M), fmt.Errorf("%w: hello without the agent's name or instance", ErrProtocol)
		}
		if m.Slots < 1 || m.Slots > 1024 || m.Slot < 0 || m.Slot >= m.Slots {
			return *new(M), fmt.Errorf("%w: hello for slot %d of %d", ErrProtocol, m.Slot, m.Slots)
		}
	case *WelcomeMessage:
		m.Build = clean(m.Build, 64)
	case *RejectMessage:
		m.Reason = clean(m.Reason, 512)
	case *StateMessage:
		m.Reason, m.R = clean(m.Reason, 512), clean(m.R, 32)
		switch m.State {
		case Installing, Starting, Warm, Failed, Draining:
		default:
			return *new(M), fmt.Errorf("%w: unknown worker state %q", ErrProtocol, clean(string(m.State), 32))
		}
	case *ExitMessage:
		*m = m.bounded()
	case *UsageMessage:
		if m.MemoryBytes < 0 {
			return *new(M), fmt.Errorf("%w: usage of %d bytes", ErrProtocol, m.MemoryBytes)
		}
	}
	return m, nil
}

// clean makes s fit for one line of a log: valid, printable, at most limit bytes.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
