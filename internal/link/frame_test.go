package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// exchange sends message as a frame of type t and returns what is decoded at the
// other end.
func exchange[M message](t *testing.T, from, to *link.Conn, kind link.Type, message M) {
	t.Helper()
	if err := from.Send(kind, message); err != nil {
		t.Fatal(err)
	}
	got, err := link.Decode[M](kind, mustNext(t, to, kind).Payload)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, message) {
		t.Fatalf("%s: got %+v, want %+v", kind, got, message)
	}
}

func TestControlFrames(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, rendezvous := pair(t, c, link.Timing{})
		exchange(t, agent, rendezvous, link.Hello, link.HelloMessage{
			Version: link.Version, Agent: "worker-x", Instance: "ab12", Slot: 1, Slots: 2, Group: "gpu", Build: "1.0", Node: "node-1", R: "4.2.2",
		})
		exchange(t, rendezvous, agent, link.Welcome, link.WelcomeMessage{Version: link.Version, Build: "1.0", Usage: true})
		exchange(t, rendezvous, agent, link.Reject, link.RejectMessage{Reason: "the pool is full"})
		for _, state := range []link.WorkerState{link.Installing, link.Starting, link.Warm, link.Failed, link.Draining} {
			exchange(t, agent, rendezvous, link.State, link.StateMessage{State: state, Reason: "because", PID: 42, R: "4.2.2"})
		}
		exchange(t, agent, rendezvous, link.Usage, link.UsageMessage{MemoryBytes: 50 << 20})
		exchange(t, agent, rendezvous, link.Exit, link.ExitMessage{Cause: "exit code 1", Lines: []string{"Fehler: ß", "two"}})
		exchange(t, agent, rendezvous, link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})

		for _, end := range []struct{ from, to *link.Conn }{{agent, rendezvous}, {rendezvous, agent}} {
			for _, kind := range []link.Type{link.Reserve, link.Reserved, link.Release} {
				for _, number := range []uint32{0, 1, 0x01020304, 1<<32 - 1} {
					if err := end.from.SendNumber(kind, number); err != nil {
						t.Fatal(err)
					}
					if got := mustNext(t, end.to, kind).Number(); got != number {
						t.Fatalf("%s: got number %d, want %d", kind, got, number)
					}
				}
			}
			if err := end.from.SendEOF(); err != nil {
				t.Fatal(err)
			}
			if frame := mustNext(t, end.to, link.EOF); len(frame.Payload) != 0 {
				t.Fatalf("eof with a payload of %d bytes", len(frame.Payload))
			}
		}
	})
}

// What R wrote last reaches the rendezvous whatever it is, though JSON makes more of
// some characters: an exit that does not fit would hide why a worker died.
func TestExitAlwaysFits(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, rendezvous := pair(t, c, link.Timing{})
		for _, character := range []string{"<", "\x1b", "\"", "\\", "\u2028", "\xff"} {
			lines := slices.Repeat([]string{strings.Repeat(character, 5000)}, 40)
			if err := agent.Send(link.Exit, link.ExitMessage{Cause: lines[0], Lines: lines}); err != nil {
				t.Fatalf("%q: %v", character, err)
			}
			frame := mustNext(t, rendezvous, link.Exit)
			exit, err := link.Decode[link.ExitMessage](link.Exit, frame.Payload)
			if err != nil || len(exit.Lines) != 10 || len(exit.Lines[9]) < 500 || len(exit.Cause) < 500 {
				t.Errorf("%q: %+v, %v", character, exit, err)
			}
		}
	})
}

// The largest control frame passes, however little was read before; one more byte
// is the sender's mistake, and never leaves.
func TestControlFrameSize(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, rendezvous := pair(t, c, link.Timing{})
		quotes := len(`{"reason":""}`)
		largest := link.RejectMessage{Reason: strings.Repeat("x", link.MaxControl-quotes)}
		sent := make(chan error, 1)
		go func() { sent <- agent.Send(link.Reject, largest) }()
		frame := mustNext(t, rendezvous, link.Reject)
		if len(frame.Payload) != link.MaxControl || !bytes.Contains(frame.Payload, []byte(largest.Reason)) {
			t.Fatalf("a payload of %d bytes came as %d", link.MaxControl, len(frame.Payload))
		}
		if err := testkit.Receive(t, sent, "the largest frame to leave"); err != nil {
			t.Fatal(err)
		}
		largest.Reason += "x"
		err := agent.Send(link.Reject, largest)
		if err == nil || !strings.Contains(err.Error(), "reject") {
			t.Fatalf("a frame that is too large: %v", err)
		}
		if err := agent.Send(link.State, make(chan int)); err == nil {
			t.Fatal("a message that is not JSON was sent")
		}
		if err := agent.SendEOF(); err != nil {
			t.Fatal(err)
		}
		mustNext(t, rendezvous, link.EOF)
	})
}

func TestRefusedHeaders(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, bytes string
		says        string
	}{
		{"type 0", "\x00\x00\x00\x00", "unknown frame type 0"},
		{"first unknown type", "\x0d\x00\x00\x00", "unknown frame type 13"},
		{"last type", "\xff\x00\x00\x00", "unknown frame type 255"},
		{"plain HTTP", "GET / HTTP/1.1\r\n\r\n", "unknown frame type 71"},
		{"a TLS client", "\x16\x03\x01\x00\xff", "unknown frame type 22"},
		{"hello too long", "\x01\x00\x40\x01", "a hello frame has 16385 bytes, at most 16384"},
		{"exit as long as it goes", "\x0a\xff\xff\xff", "exit frame has 16777215 bytes"},
		{"usage too long", "\x0c\x00\x40\x01", "a usage frame has 16385 bytes, at most 16384"},
		{"data too long", "\x08\x04\x00\x01", "a data frame has 262145 bytes, at most 262144"},
		{"reserve of 3 bytes", "\x05\x00\x00\x03", "a reserve frame has 3 bytes, want 4"},
		{"reserved of 5 bytes", "\x06\x00\x00\x05", "a reserved frame has 5 bytes, want 4"},
		{"empty release", "\x07\x00\x00\x00", "a release frame has 0 bytes, want 4"},
		{"eof with a payload", "\x09\x00\x00\x01", "eof frame has 1 bytes, at most 0"},
		{"heartbeat with a payload", "\x0b\x00\x00\x01", "heartbeat frame has 1 bytes, at most 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, raw := rawPair(t, link.Timing{})
			// A frame before it shows that it is the header that is refused.
			write(t, raw, "\x09\x00\x00\x00"+test.bytes)
			mustNext(t, conn, link.EOF)
			_, err := conn.Next()
			if !errors.Is(err, link.ErrProtocol) || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("got %v, want a protocol error that says %q", err, test.says)
			}
		})
	}
}

func write(t *testing.T, raw net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(raw, s); err != nil {
		t.Fatal(err)
	}
}

func TestEndWithinAFrameIsUnexpected(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, bytes string
		want        error
	}{
		{"nothing", "", io.EOF},
		{"after a heartbeat", "\x0b\x00\x00\x00", io.EOF},
		{"after empty data", "\x08\x00\x00\x00", io.EOF},
		{"in a header", "\x04\x00\x00", io.ErrUnexpectedEOF},
		{"in the header after a heartbeat", "\x0b\x00\x00\x00\x04", io.ErrUnexpectedEOF},
		{"before a payload", "\x05\x00\x00\x04", io.ErrUnexpectedEOF},
		{"in a payload", "\x05\x00\x00\x04abc", io.ErrUnexpectedEOF},
		{"in a long payload", "\x04\x00\x40\x00{", io.ErrUnexpectedEOF},
		{"before data", "\x08\x00\x00\x02", io.ErrUnexpectedEOF},
		{"in data", "\x08\x00\x00\x02a", io.ErrUnexpectedEOF},
		{"in data of many reads", "\x08\x04\x00\x00" + strings.Repeat("a", 5000), io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, raw := rawPair(t, link.Timing{})
			write(t, raw, test.bytes)
			if err := raw.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			var err error
			for err == nil {
				_, err = conn.Next()
			}
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestTypeNames(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for kind := link.Hello; kind <= link.Heartbeat; kind++ {
		name := kind.String()
		if seen[name] || strings.Contains(name, "unknown") {
			t.Errorf("type %d is called %q", uint8(kind), name)
		}
		seen[name] = true
	}
}

// Close frees a reader and a writer that wait, and a second one does nothing.
func TestCloseFreesBothDirections(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, _ := pair(t, c, link.Timing{})
		ended := make(chan error, 2)
		go func() {
			_, err := agent.Next()
			ended <- err
		}()
		go func() {
			// Nobody reads at the other end, so this waits at some point.
			var err error
			for frame := dataFrame(link.MaxData, 0); err == nil; {
				err = agent.SendData(frame)
			}
			ended <- err
		}()
		if err := agent.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := testkit.Receive(t, ended, "a reader and a writer to end"); err == nil {
				t.Error("no error after Close")
			}
		}
		if err := agent.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// Accept owns what it is given, also when it is of no use.
func TestAcceptNeedsTCP(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	if _, err := link.Accept(context.Background(), near, nil, link.Timing{}); err == nil {
		t.Fatal("a pipe was accepted")
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("the refused pipe: %v, want EOF", err)
	}
	far.Close()
}
