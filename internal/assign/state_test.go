package assign

import (
	"testing"
	"time"
)

// An agent that reports again what it has reported changes nothing: R has not started for as long
// as it has not.
func TestRepeatedReport(t *testing.T) {
	for _, state := range []State{Installing, Starting, Failed, Draining, Warm} {
		s := newScene(t, 1)
		slot := s.slots[0]
		s.report(slot, state)
		since := slot.Since()
		s.pass(time.Minute)
		s.report(slot, state)
		if slot.State() != state || !slot.Since().Equal(since) {
			t.Errorf("%s since %s, want %s since %s", slot.State(), slot.Since(), state, since)
		}
	}
}
