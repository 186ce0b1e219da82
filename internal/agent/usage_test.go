package agent_test

import (
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/agent"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// What a worker takes is told with the heartbeats: once while nobody has touched it,
// and again when it has changed.
func TestUsageIsToldWithHeartbeats(t *testing.T) {
	s := start(t, "echo", func(c *agent.Config) { c.Timing = link.Timing{Heartbeat: 10 * time.Millisecond} })
	s.await(pool.Warm, 1)
	memory := func() int64 { return s.Workers()[0].MemoryBytes }
	s.eventually("its memory", func() bool { return memory() > 0 })
	before := memory()
	session := s.bind()
	session.send("grow")
	session.expect("grow")
	s.eventually("100 MB more", func() bool { return memory() >= before+90<<20 })
	session.End()
	session.expect("(eof)", "(ended)")
	s.eventually("the next worker's memory", func() bool { m := memory(); return m > 0 && m < before+50<<20 })
}

// A worker that waits, connected, for what it is announced with is measured when it has
// been: what a state says is of another worker, so that nothing told before it counts.
func TestUsageAfterState(t *testing.T) {
	s := start(t, "reticent", func(c *agent.Config) { c.Timing = link.Timing{Heartbeat: time.Millisecond} })
	s.await(pool.Warm, 1)
	s.eventually("its memory", func() bool { return s.Workers()[0].MemoryBytes > 0 })
}

// R's version and the machine are known with the first warm worker.
func TestWarmWorkerTellsRVersionAndNode(t *testing.T) {
	for how, version := range map[string]string{"echo": "4.5.1", "deaf": "4.1.2", "silent": ""} {
		s := start(t, how, func(c *agent.Config) {
			c.Node = "node-1"
			c.StopGrace = 10 * time.Millisecond // a deaf one has to be killed
		})
		s.await(pool.Warm, 1)
		if w := s.Workers()[0]; w.RVersion != version || w.Node != "node-1" {
			t.Errorf("%s: %+v", how, w)
		}
	}
}
