package link_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
)

// A connection in memory carries frames, stays as long as both sides are there, and ends
// with either; all in the time of a simulation.
func TestPipe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		agent, rendezvous := link.Pipe(link.Timing{})
		defer agent.Close()
		for _, c := range []*link.Conn{agent, rendezvous} {
			c.StartHeartbeat()
		}
		sent := make(chan error, 1)
		heard := make(chan error, 1)
		go func() { _, err := agent.Next(); heard <- err }()
		go func() {
			<-time.After(10 * link.SilenceLimit)
			sent <- agent.SendNumber(link.Reserved, 7)
		}()
		frame, err := rendezvous.Next()
		if err != nil || frame.Type != link.Reserved || frame.Number() != 7 {
			t.Fatalf("got %v, %v", frame, err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if err := rendezvous.Check(); err != nil {
			t.Error(err)
		}
		rendezvous.Close()
		if <-heard == nil {
			t.Error("the other side has not learned of the end")
		}
	})
}

// Silence is noticed: by the side that was dialled after the limit, by the one that has
// dialled after its patience.
func TestPipeSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		agent, rendezvous := link.Pipe(link.Timing{})
		defer agent.Close()
		defer rendezvous.Close()
		began := time.Now()
		if _, err := rendezvous.Next(); err == nil || time.Since(began) != link.SilenceLimit {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		began = time.Now()
		if _, err := agent.Next(); err == nil || time.Since(began) != link.Patience {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}
