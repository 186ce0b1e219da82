package broker_test

import (
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/pods"
)

// scaling starts nothing, and says why.
type scaling struct{ pokes atomic.Int32 }

func (s *scaling) Poke()          { s.pokes.Add(1) }
func (s *scaling) Max(string) int { return 6 }
func (s *scaling) Starting(group string) (bool, string) {
	return false, "1 of 6 pods run; FailedCreate: exceeded quota; new: Pending (" + group + ")"
}

// What is wanted is announced, counted and shown; what is in the way is in the R error.
func TestDemandIsAnnounced(t *testing.T) {
	t.Parallel()
	scaler := &scaling{}
	s := startWith(t, func(c *broker.Config) {
		c.DemandTimeout = 2 * time.Second
		c.Scaling, c.Groups = scaler, []string{"default", "gpu"}
		c.Missing = func() []pods.Pod {
			return []pods.Pod{{Name: "new", Reason: "Pending"}, {Name: "other", Reason: "Unschedulable"}}
		}
	})
	expect := func(when string, want map[string]int) {
		t.Helper()
		s.eventually(when, func() bool { return maps.Equal(s.Wanted(), want) })
	}
	expect("nothing", map[string]int{})
	s.agent("pod")
	first := s.listen(0, uid)
	first.connect()
	expect("one that has its worker", map[string]int{"default": 1})
	second := s.listen(first.port, uid)
	expect("one that waits", map[string]int{"": 1, "default": 1})
	if n := scaler.pokes.Load(); n != 2 {
		t.Errorf("%d pokes", n)
	}
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(`
# HELP rendezvous_workers_wanted Workers that sessions have or wait for, by group. Demand for workers of any group counts for the default one.
# TYPE rendezvous_workers_wanted gauge
rendezvous_workers_wanted{group="default"} 2
rendezvous_workers_wanted{group="gpu"} 0
`), "rendezvous_workers_wanted"); err != nil {
		t.Error(err)
	}
	second.connect()
	s.eventually("the refusal", func() bool { return s.Clusters()[0].Refusal != "" })
	if got, want := s.Clusters()[0].Refusal, "; other: Unschedulable; scaling: 1 of 6 pods run; FailedCreate: exceeded quota; new: Pending (default)"; !strings.HasSuffix(got, want) {
		t.Errorf("the R error is %q, want it to end in %q", got, want)
	}
	expect("one that was refused", map[string]int{"default": 1})
}
