package relay_test

import (
	"bytes"
	"crypto/rand"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

func TestActivityOfCalls(t *testing.T) {
	s := start(t, &worker{}, nil)
	exec := call("EXEC", []byte("some data"))
	// Busy from the first byte.
	s.write(t, exec[:10])
	s.worker.await(t, 10)
	if a := s.Activity(); !a.Busy || a.UpBytes != 10 {
		t.Errorf("after the first bytes: %+v", a)
	}
	s.write(t, exec[10:])
	if got := s.worker.await(t, len(exec)); !bytes.Equal(got, exec) {
		t.Errorf("the worker was sent %q", got)
	}
	good := answer(t)
	s.Data(good[:7])
	if !s.Activity().Busy {
		t.Error("no longer busy in the middle of the answer")
	}
	s.Data(good[7:])
	if got := s.read(t, len(good)); !bytes.Equal(got, good) {
		t.Errorf("R was sent %q", got)
	}
	if a := s.Activity(); a.Busy || a.Calls != 1 || a.BusyTime <= 0 || a.DownBytes != int64(len(good)) {
		t.Errorf("after the answer: %+v", a)
	}
	s.write(t, exec)
	s.worker.await(t, 2*len(exec))
	s.Data(psock.AppendError(nil, "no", false))
	want := `
# HELP rendezvous_calls_total Calls that workers have answered, by whether R code raised an error.
# TYPE rendezvous_calls_total counter
rendezvous_calls_total{result="error"} 1
rendezvous_calls_total{result="success"} 1
`
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), "rendezvous_calls_total"); err != nil {
		t.Error(err)
	}
}

// The first bytes were read before the relay began.
func TestOpeningIsRelayedFirst(t *testing.T) {
	exec := call("EXEC", nil)
	s := start(t, &worker{}, append(make([]byte, relay.Headroom), exec...))
	if got := s.worker.await(t, len(exec)); !bytes.Equal(got, exec) {
		t.Errorf("the worker was sent %q", got)
	}
	if !s.Activity().Busy {
		t.Error("not busy")
	}
}

// DONE wants no answer.
func TestDone(t *testing.T) {
	s := start(t, &worker{}, nil)
	done := call("DONE", nil)
	s.write(t, done)
	s.worker.await(t, len(done))
	if a := s.Activity(); a.Busy || a.Calls != 0 {
		t.Errorf("after DONE: %+v", a)
	}
}

// What is no R message passes all the same, and is counted once.
func TestOpaqueBytesPass(t *testing.T) {
	s := start(t, &worker{}, nil)
	odd := bytes.Repeat([]byte("this is not R "), 1000)
	s.write(t, odd)
	if got := s.worker.await(t, len(odd)); !bytes.Equal(got, odd) {
		t.Error("the worker was sent something else")
	}
	s.Data(odd)
	if got := s.read(t, len(odd)); !bytes.Equal(got, odd) {
		t.Error("R was sent something else")
	}
	if a := s.Activity(); !a.Opaque || a.Busy || a.UpBytes != int64(len(odd)) || a.DownBytes != int64(len(odd)) {
		t.Errorf("%+v", a)
	}
	want := `
# HELP rendezvous_opaque_streams_total Sessions whose stream the message scanner could not follow; their bytes were relayed all the same.
# TYPE rendezvous_opaque_streams_total counter
rendezvous_opaque_streams_total 1
`
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), "rendezvous_opaque_streams_total"); err != nil {
		t.Error(err)
	}
}

// Much more than any buffer, both ways at once.
func TestMoreThanBuffersBothWays(t *testing.T) {
	s := start(t, &worker{}, nil)
	payload := make([]byte, 10<<20)
	if _, err := rand.Read(payload); err != nil {
		t.Fatal(err)
	}
	exec := call("EXEC", payload)
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = s.r.Write(exec) })
	sending.Go(func() {
		for rest := exec; len(rest) > 0; {
			n := min(len(rest), 100_000)
			s.Data(rest[:n])
			rest = rest[n:]
		}
	})
	if got := s.read(t, len(exec)); !bytes.Equal(got, exec) {
		t.Error("R was sent something else")
	}
	if got := s.worker.await(t, len(exec)); !bytes.Equal(got, exec) {
		t.Error("the worker was sent something else")
	}
	sending.Wait()
}
