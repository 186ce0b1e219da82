package relay_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// R that is interrupted while it sends a large call waits for the answer to its next one,
// which the worker takes for data: it gets the end of the connection instead.
func TestAbandonedCall(t *testing.T) {
	large := named(call("EXEC", make([]byte, 1<<20)))
	for name, next := range map[string][]byte{
		"future asks": named(told(facts.Validation)),
		"clusterCall": named(call("EXEC", []byte("x"))),
		"large":       named(call("EXEC", noise(t, 300<<10))),
		// The first call has its end in the middle of the next one.
		"longer than the rest, zeros": large,
		"longer than the rest, noise": named(call("EXEC", noise(t, 1<<20))),
	} {
		for _, pieces := range []int{1, 7, 100} {
			t.Run(fmt.Sprintf("%s in %d", name, pieces), func(t *testing.T) {
				s := start(t, &worker{}, nil)
				sent := s.done(t, 0)
				s.write(t, large[:700<<10])
				s.worker.await(t, sent+700<<10)
				for piece := range slices.Chunk(next, len(next)/pieces+1) {
					s.write(t, piece)
				}
				s.readEnd(t)
				receive(t, s.worker.ended, "the worker to be ended")
				if got := s.lost(t, relay.NotFollowed); got != 1 {
					t.Errorf("%v calls are counted as lost", got)
				}
				if got := s.worker.total(); got >= sent+len(large) {
					t.Errorf("the worker was sent %d bytes: a whole call", got-sent)
				}
			})
		}
	}
}

// The next call can be left as well.
func TestAbandonedTwice(t *testing.T) {
	first := named(call("EXEC", make([]byte, 8<<20)))
	second := named(call("EXEC", make([]byte, 1<<20)))
	for _, cut := range []int{40, 200 << 10} {
		s := start(t, &worker{}, nil)
		sent := s.done(t, 0)
		s.write(t, first[:1<<20])
		s.write(t, second[:cut])
		s.worker.await(t, sent+1<<20+cut)
		s.write(t, named(told(facts.Validation)))
		s.readEnd(t)
	}
}

// A stream that is not followed is relayed all the same, with all that it has.
func TestOpaqueGoesOn(t *testing.T) {
	s := start(t, &worker{}, nil)
	sent := s.done(t, 0)
	odd := append(call("EXEC", make([]byte, 100<<10)), bytes.Repeat([]byte{99, 0, 0, 0}, 10)...)
	binary.LittleEndian.PutUint32(odd[18:], 3) // elements, of which the last two are none
	s.write(t, odd)
	s.worker.await(t, sent+len(odd))
	if !s.Activity().Opaque {
		t.Fatal("the stream is followed")
	}
	next := named(call("EXEC", make([]byte, 100<<10)))
	for range 3 {
		s.write(t, next)
	}
	s.worker.await(t, sent+len(odd)+3*len(next))
	if got := s.lost(t, relay.NotFollowed); got != 0 {
		t.Errorf("%v calls are counted as lost", got)
	}
}

func noise(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// Data that holds a call is data, and so is data that holds the beginning of one.
func TestCallWithinData(t *testing.T) {
	inner := named(call("EXEC", []byte("x")))
	s := start(t, &worker{}, nil)
	for _, data := range [][]byte{
		slices.Concat(make([]byte, 100<<10), inner, make([]byte, 100<<10)),
		slices.Concat(make([]byte, 100<<10), named(told(facts.Validation))),
		named(call("EXEC", make([]byte, 1<<20)))[:512<<10],
		slices.Concat(make([]byte, 100<<10), inner[:len(inner)-1]),
	} {
		large := named(call("EXEC", data))
		s.makes(t, s.worker.total(), large, value("kept"))
	}
	if got := s.worker.await(t, 1); !bytes.Contains(got, inner) {
		t.Error("the worker was not sent the data")
	}
}

// A call is found behind whatever data, and however it arrives; data alone is none.
func FuzzInner(f *testing.F) {
	next := named(call("EXEC", []byte("B\nX\n")))
	f.Add([]byte("any"), uint16(2), uint16(9))
	f.Add([]byte("B"), uint16(0), uint16(2))
	f.Add(named(value("B\n")), uint16(100), uint16(200))
	f.Add(next[:60], uint16(60), uint16(70))
	f.Add(next[:3], uint16(2), uint16(2))
	f.Fuzz(func(t *testing.T, data []byte, first, second uint16) {
		all := slices.Concat(data, next)
		a := min(int(first), len(all))
		b := min(a+int(second), len(all))
		pieces := [][]byte{all[:a], all[a:b], all[b:]}
		// What begins as a message may take the beginning of the call for its own.
		if !bytes.Contains(data, next[:6]) && !relay.EndsInner(next, pieces...) {
			t.Error("the call is not found")
		}
		if other := []byte("X\n\x00\x00\x00\x03"); relay.EndsInner(other, pieces...) && !bytes.Contains(data, other) {
			t.Error("a call of the other format is found")
		}
		if relay.EndsInner(next, all[:len(all)-1]) {
			t.Error("a call is found that has no end")
		}
	})
}

// named gives a call's list names, as R does.
func named(call []byte) []byte {
	const attr, pair, tag, symbol, str, char, null = 1 << 9, 2, 1 << 10, 1, 16, 9 | 1<<18, 254
	b := slices.Clone(call)
	binary.LittleEndian.PutUint32(b[14:], binary.LittleEndian.Uint32(b[14:])|attr)
	words := func(words ...uint32) {
		for _, word := range words {
			b = binary.LittleEndian.AppendUint32(b, word)
		}
	}
	words(pair|tag, symbol, char, 5)
	b = append(b, "names"...)
	words(str, 2, char, 4)
	b = append(b, "type"...)
	words(char, 3)
	b = append(b, "tag"...)
	words(null)
	return b
}

// lost is how many calls are counted as lost for the reason.
func (s *session) lost(t *testing.T, reason relay.LossReason) float64 {
	t.Helper()
	return testkit.Metric(t, s.registry, "rendezvous_lost_calls_total", string(reason))
}

// total is how many bytes the worker was sent.
func (w *worker) total() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}
