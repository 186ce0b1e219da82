package elastic_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"golang.org/x/sys/unix"
)

// costs are the CPU time that a pool of some size takes: the scaler's loop for one step,
// and all else for what happens, fake agents and sessions included. Things happen as fast
// as they can: in a simulation's time its clock would be most of the cost.
type costs struct {
	agents int

	// A step: when all workers compute and as many nodes wait; when all are idle; while
	// those go, a hundred at a time.
	computing, resting, shrinking time.Duration

	join   time.Duration // of an agent, whose worker goes to one of two nodes that wait
	future time.Duration // where two nodes take turns on each worker
	end    time.Duration // of a session's worker, and the start of the next one
	leave  time.Duration // of an agent
}

const (
	sessionNodes = 100
	enough       = 100_000 // futures, in a small pool as in a large one
)

// measure takes a pool from nothing to a number of agents and back.
func measure(t *testing.T, agents int) costs {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w := newWorld(t, agents, time.Minute)
	w.kube.latency, w.kube.quick = 0, true
	c := costs{agents: agents}
	crowd := newCrowd(w, 2*agents, max(enough/agents/2, 1))

	rest := stopwatch(t)
	w.step()
	w.kube.settle()
	await(t, func() bool { return crowd.bound.Load() == int64(agents) })
	c.join = rest() / time.Duration(agents)
	c.computing = w.least()

	rest = stopwatch(t)
	close(crowd.begin)
	await(t, func() bool { return crowd.done.Load() == int64(2*agents) })
	c.future = rest() / time.Duration(2*agents*crowd.calls)

	rest = stopwatch(t)
	close(crowd.end)
	await(t, func() bool { states, _ := w.pool.Counts(); return states[pool.Warm] == agents-1 })
	c.end = rest() / time.Duration(agents)
	c.resting = w.least()

	w.now = w.now.Add(2 * w.idle)
	rest = stopwatch(t)
	c.shrinking = w.shrink()
	c.leave = rest() / time.Duration(agents)
	close(crowd.last)
	w.stop()
	w.running.Wait()
	w.kube.running.Wait()
	if w.kube.torn > 0 {
		t.Errorf("%d pods were deleted that sessions had", w.kube.torn)
	}
	for _, s := range w.sessions {
		if s.lost.Load() > 0 {
			t.Errorf("%s: %d futures were lost", s.kind, s.lost.Load())
		}
	}
	return c
}

// elsewhere is larger than what a core keeps at hand.
var elsewhere = make([]byte, 64<<20)

// step is a look of the scaler's, and a second of its time; it returns this thread's CPU
// time. In the second between two looks other things are done: nothing that a look needs
// is in the processor's caches any more.
func (w *world) step() time.Duration {
	for i := 0; i < len(elsewhere); i += 64 {
		elsewhere[i]++
	}
	before := used(w.t, unix.CLOCK_THREAD_CPUTIME_ID)
	w.scaler.Step(w.ctx, w.now)
	w.now = w.now.Add(time.Second)
	return used(w.t, unix.CLOCK_THREAD_CPUTIME_ID) - before
}

// least is what a step takes that nothing disturbs.
func (w *world) least() time.Duration {
	least := w.step()
	for range 30 {
		least = min(least, w.step())
	}
	return least
}

// shrink takes steps until one pod is left.
func (w *world) shrink() (step time.Duration) {
	for steps := 1; ; steps++ {
		step += w.step()
		w.kube.settle()
		_, there, _ := w.kube.count()
		await(w.t, func() bool { return len(w.pool.Agents(pool.DefaultGroup)) == there })
		if there <= 1 {
			return step / time.Duration(steps)
		}
	}
}

// used is the CPU time of this process, or this thread. (getrusage(2) counts in ticks of
// the kernel's clock.)
func used(t *testing.T, clock int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// stopwatch returns a function that says what CPU time all threads but this one have
// taken since.
func stopwatch(t *testing.T) func() time.Duration {
	others := func() time.Duration {
		return used(t, unix.CLOCK_PROCESS_CPUTIME_ID) - used(t, unix.CLOCK_THREAD_CPUTIME_ID)
	}
	runtime.GC() // what was before is not to be paid for now
	began := others()
	return func() time.Duration { return others() - began }
}

// await waits for what shows only when asked for.
func await(t *testing.T, condition func() bool) {
	t.Helper()
	testkit.EventuallyWithin(t, 2*time.Minute, 5*time.Millisecond, "what is measured to be done", condition)
}

// crowd is sessions with two nodes for each worker, all of which make the same number of
// calls.
type crowd struct {
	calls       int
	bound, done atomic.Int64  // nodes that have had their first worker; that have made their calls
	begin, end  chan struct{} // closed to let them
	last        chan struct{} // the same for one of them, whose worker stays in use
}

func newCrowd(w *world, nodes, calls int) *crowd {
	c := &crowd{calls: calls, begin: make(chan struct{}), end: make(chan struct{}), last: make(chan struct{})}
	for i := range nodes / sessionNodes {
		s := &session{load: load{kind: fmt.Sprint("session ", i), nodes: sessionNodes}, pool: w.pool, poke: w.scaler.Poke}
		s.enter(i)
		w.sessions = append(w.sessions, s)
		for range sessionNodes {
			n := s.node()
			w.running.Go(func() { c.compute(w, n) })
		}
	}
	return c
}

// compute makes a node's calls. Its worker is anybody's after each.
func (c *crowd) compute(w *world, n *node) {
	if n.acquire(w.ctx, false) != nil {
		return
	}
	stays := c.bound.Add(1) == 1
	<-c.begin
	for range c.calls {
		if !n.call(w.ctx, 0) {
			return
		}
		n.yield()
	}
	end := c.end
	switch {
	case stays && n.worker != nil:
		n.worker.Keep()
	case stays && n.acquire(w.ctx, false) != nil:
		return
	}
	c.done.Add(1)
	if stays {
		end = c.last
	}
	for n.worker != nil {
		select {
		case <-n.worker.Recalled():
			n.yield()
		case <-end:
			n.worker.End()
			<-n.worker.Over()
			n.worker = nil
		}
	}
	<-end
}

// table is what docs/scaling.md shows of the costs.
func table(all []costs) string {
	var b strings.Builder
	fmt.Fprint(&b, "| CPU time |")
	for _, c := range all {
		fmt.Fprintf(&b, " %d agents |", c.agents)
	}
	last := all[len(all)-1]
	for _, c := range all[:len(all)-1] {
		fmt.Fprintf(&b, " each, to %d |", c.agents)
	}
	fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---|", 2*len(all)-1))
	row := func(what string, of func(costs) time.Duration, unit time.Duration, format string, each bool) {
		fmt.Fprintf(&b, "| %s |", what)
		for _, c := range all {
			fmt.Fprintf(&b, format, float64(of(c))/float64(unit))
		}
		// How many times what it takes for each agent, or each time, in a smaller pool.
		for _, c := range all[:len(all)-1] {
			ratio := float64(of(last)) / float64(of(c))
			if !each {
				ratio *= float64(c.agents) / float64(last.agents)
			}
			fmt.Fprintf(&b, " %.1f |", ratio)
		}
		fmt.Fprintln(&b)
	}
	const ms, us = " %.2f ms |", " %.0f µs |"
	row("a look of the scaler's, all compute", func(c costs) time.Duration { return c.computing }, time.Millisecond, ms, false)
	row("all are idle", func(c costs) time.Duration { return c.resting }, time.Millisecond, ms, false)
	row("a hundred go", func(c costs) time.Duration { return c.shrinking }, time.Millisecond, ms, false)
	row("an agent joins, and a node that waits gets its worker", func(c costs) time.Duration { return c.join }, time.Microsecond, us, true)
	row("a future, two nodes for each worker", func(c costs) time.Duration { return c.future }, time.Microsecond, us, true)
	row("a session's worker ends, the next one starts", func(c costs) time.Duration { return c.end }, time.Microsecond, us, true)
	row("an agent leaves", func(c costs) time.Duration { return c.leave }, time.Microsecond, us, true)
	return b.String()
}
