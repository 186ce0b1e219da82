// Package link is the protocol between a worker agent and the rendezvous: one
// connection for each slot, on which the agent introduces the slot, says what
// state its worker is in, and carries the bytes of the one PSOCK connection the
// worker is bound to. docs/protocol.md is its specification.
//
// The package knows frames and heartbeats. What the two sides do with them is
// theirs: internal/agent on one end, internal/pool on the other.
package link

import (
	"errors"
	"fmt"
)

// Type names a frame. The numbers are the protocol; never reuse one.
type Type uint8

const (
	// Hello is the first frame of a connection, agent to rendezvous: a JSON Hello.
	Hello Type = 1
	// Welcome answers Hello, rendezvous to agent: a JSON Welcome.
	Welcome Type = 2
	// Reject answers a Hello that is not served: a JSON Rejection. The connection ends.
	Reject Type = 3
	// State says what the slot's worker is doing, agent to rendezvous: a JSON State.
	State Type = 4
	// Reserve asks for the warm worker: a reservation number (4 bytes).
	Reserve Type = 5
	// Reserved grants it, agent to rendezvous, with the same number.
	Reserved Type = 6
	// Release gives an untouched worker back, rendezvous to agent, same number.
	Release Type = 7
	// Data carries bytes of the PSOCK connection, in either direction.
	Data Type = 8
	// EOF says that the sender's end of the PSOCK connection has finished sending.
	EOF Type = 9
	// Exit says that the worker has ended and why, agent to rendezvous: a JSON Exit.
	Exit Type = 10
	// Heartbeat says only that the sender is there. Either direction, no payload.
	Heartbeat Type = 11
	// Usage says what the worker takes, agent to rendezvous: a JSON Usage.
	Usage Type = 12
)

func (t Type) String() string {
	names := [...]string{
		Hello: "hello", Welcome: "welcome", Reject: "reject", State: "state",
		Reserve: "reserve", Reserved: "reserved", Release: "release",
		Data: "data", EOF: "eof", Exit: "exit", Heartbeat: "heartbeat", Usage: "usage",
	}
	if int(t) < len(names) && names[t] != "" {
		return names[t]
	}
	return fmt.Sprintf("unknown frame type %d", uint8(t))
}

// Sizes, in bytes.
const (
	// HeaderSize precedes every payload: a type byte and a 24-bit big-endian length.
	HeaderSize = 4
	// MaxControl bounds the payload of every frame but Data. The largest is an
	// Exit with the worker's last lines, about 4 KB.
	MaxControl = 16 << 10
	// MaxData bounds the payload of a Data frame. Sixteen TLS records: larger
	// ones gained nothing, and a heartbeat waits behind at most one of them.
	MaxData = 256 << 10
)

// ErrProtocol is wrapped by every error that the other side's bytes caused.
var ErrProtocol = errors.New("protocol error")

// Frame is one frame, or one part of a Data frame: a long Data frame is handed
// on in pieces, since it is a stretch of a byte stream and nothing more.
type Frame struct {
	Type Type
	// Payload is valid until the next read from the connection.
	Payload []byte
}

func putHeader(dst []byte, t Type, length int) {
	dst[0] = byte(t)
	dst[1], dst[2], dst[3] = byte(length>>16), byte(length>>8), byte(length)
}

func parseHeader(src []byte) (Type, int, error) {
	t := Type(src[0])
	length := int(src[1])<<16 | int(src[2])<<8 | int(src[3])
	limit := 0
	switch t {
	case Data:
		limit = MaxData
	case Hello, Welcome, Reject, State, Exit, Usage:
		limit = MaxControl
	case Reserve, Reserved, Release:
		if length != 4 {
			return 0, 0, fmt.Errorf("%w: a %s frame has %d bytes, want 4", ErrProtocol, t, length)
		}
		return t, length, nil
	case EOF, Heartbeat:
	default:
		return 0, 0, fmt.Errorf("%w: %s", ErrProtocol, t)
	}
	if length > limit {
		return 0, 0, fmt.Errorf("%w: a %s frame has %d bytes, at most %d are allowed", ErrProtocol, t, length, limit)
	}
	return t, length, nil
}
