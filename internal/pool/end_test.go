package pool

import (
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
)

// A worker that has ended in time leaves no timer behind, which would keep its session's
// buffers for as long as it had.
func TestEndLeavesNoTimer(t *testing.T) {
	p, s := newSlot(t)
	s.onState(link.StateMessage{State: link.Warm})
	w := mustTake(t, p)
	if err := w.Bind(nil); err != nil {
		t.Fatal(err)
	}
	w.End()
	s.onExit(link.ExitMessage{Expected: true})
	if w.ending.Stop() {
		t.Error("the timer runs on")
	}
}
