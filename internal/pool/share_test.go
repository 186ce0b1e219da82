package pool_test

import (
	"fmt"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// tenant wants what there is, for itself.
func (r *rendezvous) tenant(name string) pool.Want {
	return pool.Want{Tenant: r.NewTenant(name, 0)}
}

func recalled(w *pool.Worker) bool {
	select {
	case <-w.Recalled():
		return true
	default:
		return false
	}
}

// A worker goes from node to node of one tenant as it is: its agent hears nothing of
// that, and the node before has no say in it.
func TestHandedOver(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "a")
	mine := r.tenant("mine")
	w, before := r.bindWanted(t, a, mine)
	mine.SetUps = []pool.SetUp{{2}, {1}}
	waiting := r.queueWanted(t, mine)
	w.Offer(pool.SetUp{1}, false)
	want(t, w.Recalled(), "the worker to be recalled")
	if !w.Yield() {
		t.Fatal("nobody should have it")
	}
	w.End()
	next := mustGet(t, waiting)
	if next.Name() != "a/0" || next.SetUp() != (pool.SetUp{1}) {
		t.Errorf("got %s, set up %v", next.Name(), next.SetUp())
	}
	want(t, w.Over(), "the worker to be over for the first node")
	after := newSink()
	if err := next.Bind(after); err != nil {
		t.Fatal(err)
	}
	if w.SendData(dataFrame("late")) == nil {
		t.Error("the first node still reaches the worker")
	}
	if err := next.SendData(dataFrame("ping")); err != nil {
		t.Fatal(err)
	}
	if got := string(a.expect(link.Data).Payload); got != "ping" {
		t.Errorf("the agent got %q", got)
	}
	a.data("pong")
	after.expect(t, "data pong")
	before.expect(t)
	next.End()
	a.expect(link.EOF)
	a.send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
	after.expect(t, "ended: its session ended")
	before.expect(t)
}

// What others have used is not given back to the pool, but ends.
func TestHandedOverAndReleased(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "a")
	mine := r.tenant("mine")
	w, _ := r.bindWanted(t, a, mine)
	mine.SetUps = []pool.SetUp{{1}}
	waiting := r.queueWanted(t, mine)
	w.Offer(pool.SetUp{1}, false)
	if !w.Yield() {
		t.Fatal("nobody should have it")
	}
	next := mustGet(t, waiting)
	next.Release()
	a.expect(link.EOF)
	a.send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
	want(t, next.Over(), "the worker to be over")
	a.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 1 })
}

// Whoever cannot use the worker as it is gets its successor, though others wait as well.
func TestSuccessor(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]func(mine pool.Want, r *rendezvous) pool.Want{
		"another set-up": func(mine pool.Want, _ *rendezvous) pool.Want {
			mine.SetUps = []pool.SetUp{{2}}
			return mine
		},
		"another tenant": func(_ pool.Want, r *rendezvous) pool.Want {
			other := r.tenant("other")
			other.SetUps = []pool.SetUp{{1}}
			return other
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			a := r.park(t, "a")
			mine := r.tenant("mine")
			w, s := r.bindWanted(t, a, mine)
			first := r.queueWanted(t, waits(mine, r))
			w.Offer(pool.SetUp{1}, true)
			want(t, w.Recalled(), "the worker to be recalled")
			second := r.queueWanted(t, r.tenant("late"))
			if !w.Yield() {
				t.Fatal("nobody should have it")
			}
			w.End()
			a.expect(link.EOF)
			a.send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
			s.expect(t, "ended: its session ended")
			a.state(link.Starting)
			eventually(t, "its successor to start", func() bool { return r.count(pool.Starting) == 1 })
			if len(r.Idle("default")) > 0 || r.Cordon("a") {
				t.Error("an agent whose next worker is somebody's is taken for an idle one")
			}
			a.state(link.Warm)
			a.grant()
			if next := mustGet(t, first); next.SetUp() != (pool.SetUp{}) {
				t.Error("a fresh worker is said to be set up")
			}
			if len(second) > 0 {
				t.Error("one worker was given to two")
			}
		})
	}
}

// A holder that needs its worker again, after it was recalled, has it for as long as it
// does.
func TestYieldOfAKeptWorker(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "a")
	mine := r.tenant("mine")
	w, _ := r.bindWanted(t, a, mine)
	mine.SetUps = []pool.SetUp{{1}}
	waiting := r.queueWanted(t, mine)
	w.Offer(pool.SetUp{1}, false)
	want(t, w.Recalled(), "the worker to be recalled")
	w.Keep()
	if w.Yield() || len(waiting) > 0 {
		t.Fatal("a worker that is needed was given away")
	}
	w.Offer(pool.SetUp{1}, false)
	want(t, w.Recalled(), "the worker to be recalled again")
	if !w.Yield() {
		t.Fatal("nobody should have it")
	}
	mustGet(t, waiting)
}

// A worker that is not needed at present is recalled for a tenant that has fewer; at
// once if the difference is larger than one, and after a rest anyway. One that is needed
// again stays, and so does one that nobody should have.
func TestFairShares(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	rich, poor := r.tenant("rich"), r.tenant("poor")
	var held []*pool.Worker
	for i := range 3 {
		w, _ := r.bindWanted(t, r.park(t, fmt.Sprint(i)), rich)
		held = append(held, w)
	}
	held[0].Offer(pool.SetUp{}, false)
	if held[0].Yield() {
		t.Fatal("somebody should have a worker that nobody waits for")
	}
	held[0].Keep()
	first := r.queueWanted(t, poor)
	if recalled(held[0]) {
		t.Fatal("a worker was recalled that is needed")
	}
	held[0].Offer(pool.SetUp{}, false)
	if !recalled(held[0]) {
		t.Fatal("three to none, and it is not recalled")
	}
	held[0].Keep()
	if recalled(held[0]) {
		t.Fatal("a worker is still recalled that is needed again")
	}
	held[1].Offer(pool.SetUp{}, false)
	if !recalled(held[1]) {
		t.Fatal("it is not recalled in the other one's place")
	}
	held[2].Offer(pool.SetUp{}, false)
	if recalled(held[2]) {
		t.Fatal("two were recalled for one that waits")
	}
	second := r.queueWanted(t, poor)
	if recalled(held[2]) {
		t.Error("recalled at once, though that leaves the other one with fewer")
	}
	want(t, held[2].Recalled(), "it to be recalled after a rest")
	if len(first)+len(second) > 0 {
		t.Error("somebody got a worker that nobody has given back")
	}
}

// Free workers go to the tenant that has the fewest.
func TestFewestFirst(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	one, two := r.tenant("one"), r.tenant("two")
	ones := []<-chan result{r.queueWanted(t, one), r.queueWanted(t, one), r.queueWanted(t, one)}
	twos := []<-chan result{r.queueWanted(t, two)}
	for i, c := range []<-chan result{ones[0], twos[0], ones[1], ones[2]} {
		a := r.join(t, fmt.Sprint(i))
		a.state(link.Warm)
		a.grant()
		mustGet(t, c)
	}
}

// One whose worker was lost in a call comes before all others.
func TestUrgent(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.queueWanted(t, r.tenant("one"))
	r.queueRanked(t, 1)
	lost := r.tenant("lost")
	lost.Urgent = true
	urgent := r.queueWanted(t, lost)
	a := r.join(t, "a")
	a.state(link.Warm)
	a.grant()
	mustGet(t, urgent)
}

// A tenant has no more workers than it may have, though more are free; but it may
// still pass on those that it has.
func TestMost(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	capped := pool.Want{Tenant: r.NewTenant("capped", 1), SetUps: []pool.SetUp{{1}}}
	a := r.park(t, "a")
	w, _ := r.bindWanted(t, a, capped)
	b := r.park(t, "b")
	second := r.queueWanted(t, capped)
	w.Offer(pool.SetUp{1}, false)
	want(t, w.Recalled(), "the worker to be recalled")
	if !w.Yield() {
		t.Fatal("nobody should have it")
	}
	next := mustGet(t, second)
	if err := next.Bind(newSink()); err != nil {
		t.Fatal(err)
	}
	third := r.queueWanted(t, capped)
	a.send(link.Exit, link.ExitMessage{Cause: "killed"})
	b.grant()
	if w := mustGet(t, third); w.Name() != "b/0" {
		t.Errorf("got %s", w.Name())
	}
}

// A tenant that has all that it may have claims nothing that another holds untouched.
func TestMostUntouched(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	older := pool.Want{Tenant: r.NewTenant("older", 1), Whole: true}
	younger := pool.Want{Tenant: r.NewTenant("younger", 0), Whole: true}
	take := func(name string, want pool.Want) *pool.Worker {
		a := r.park(t, name)
		got := r.acquireWanted(r.ctx, want)
		a.grant()
		return mustGet(t, got)
	}
	take("a", older)
	w := take("b", younger)
	r.queueWanted(t, older)
	if recalled(w) {
		t.Error("a worker is recalled for a tenant that has all it may have")
	}
}

// A caller that wants a worker of some group gets no other.
func TestGroups(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	gpu := r.tenant("gpu")
	gpu.Group = "gpu"
	r.park(t, "plain")
	waiting := r.queueWanted(t, gpu)
	h := hello("special")
	h.Group = "gpu"
	special := r.dial(t, h)
	special.expect(link.Welcome)
	special.state(link.Warm)
	special.grant()
	if w := mustGet(t, waiting); w.Name() != "special/0" {
		t.Errorf("got %s", w.Name())
	}
	plain := r.acquire(r.ctx)
	select {
	case got := <-plain:
		t.Errorf("got %v before its agent has answered", got)
	default:
	}
}

// A tenant that has all that it asked for keeps it, though it has not used it yet.
func TestComplete(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.want(1) // the older one
	a := r.park(t, "a")
	c := r.acquireRanked(2)
	a.grant()
	w := mustGet(t, c)
	r.Complete(r.want(2).Tenant)
	r.queueRanked(t, 1)
	if recalled(w) {
		t.Error("it was recalled")
	}
}

// A cluster that needs all it asks for has its share of a pool in which others compute all
// the time, if that is all it asks for. One that asks for more waits until workers are
// idle: it would hold some and not begin.
func TestWholeShare(t *testing.T) {
	t.Parallel()
	for nodes, has := range map[int]bool{2: true, 3: false} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			held := r.compute(t, 4)
			r.queueWhole(t, nodes, nodes)
			for i, w := range held {
				w.Offer(pool.SetUp{1}, false)
				if got, want := recalled(w), has && i < 2; got != want {
					t.Errorf("worker %d: recalled is %t, want %t", i, got, want)
				}
			}
			held[3].Offer(pool.SetUp{1}, true)
			if recalled(held[3]) == has {
				t.Errorf("an idle one: recalled is %t, want %t", has, !has)
			}
		})
	}
}

// One that does not say how much it asks for has its share when it has waited for a turn.
func TestShareNodeByNode(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	held := r.compute(t, 4)
	r.queueWhole(t, 3, 0)
	for i, w := range held {
		w.Offer(pool.SetUp{1}, false)
		if recalled(w) {
			t.Errorf("worker %d was recalled at once", i)
		}
	}
	for i, w := range held {
		if i < 2 {
			want(t, w.Recalled(), "a worker to be recalled")
		} else if recalled(w) {
			t.Errorf("worker %d was recalled, which is more than the share", i)
		}
	}
}

// compute has a tenant use so many workers.
func (r *rendezvous) compute(t *testing.T, workers int) (held []*pool.Worker) {
	t.Helper()
	futures := r.tenant("futures")
	for i := range workers {
		w, _ := r.bindWanted(t, r.park(t, fmt.Sprint(i)), futures)
		held = append(held, w)
	}
	return held
}

// queueWhole has the nodes of a cluster wait that needs all of them.
func (r *rendezvous) queueWhole(t *testing.T, nodes, total int) {
	t.Helper()
	whole := r.tenant("whole")
	whole.Whole, whole.Total = true, total
	for range nodes {
		r.queueWanted(t, whole)
	}
}

// What rests with a tenant that waits for the rest of what it needs goes to whoever has
// fewer, after a while.
func TestRestingUntouched(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	whole := r.tenant("whole")
	whole.Whole, whole.Total = true, 3
	var held []*pool.Worker
	for i := range 2 {
		a := r.park(t, fmt.Sprint(i))
		c := r.acquireWanted(r.ctx, whole)
		a.grant()
		held = append(held, mustGet(t, c))
	}
	r.queueWanted(t, whole)
	r.queueWanted(t, r.tenant("futures"))
	want(t, held[1].Recalled(), "the last one to be recalled")
	if recalled(held[0]) {
		t.Error("both were recalled for one that waits")
	}
}
