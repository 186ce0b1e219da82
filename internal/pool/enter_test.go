package pool_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// of is the first word of a slot of another process that calls itself name.
func of(name, instance string, slot, slots int) link.HelloMessage {
	h := hello(name)
	h.Instance, h.Slot, h.Slots = instance, slot, slots
	return h
}

// rejected reads why the agent is refused.
func (a *agent) rejected() string {
	a.t.Helper()
	reject, err := link.Decode[link.RejectMessage](link.Reject, a.expect(link.Reject).Payload)
	a.check(err)
	a.ends()
	return reject.Reason
}

// brief has agents give up at once.
func brief(c *pool.Config) { c.TakeoverLimit = time.Nanosecond }

// An agent that has said that it has one slot has one worker in the pool, however often it
// dials and whatever it says then.
func TestOneConnectionForEachSlot(t *testing.T) {
	t.Parallel()
	r := start(t, brief)
	const dials = 20
	var last *agent
	for range dials {
		before := last
		last = r.dial(t, of("a", "i", 0, 1))
		last.expect(link.Welcome)
		last.state(link.Warm)
		if before != nil {
			before.ends()
		}
	}
	eventually(t, "its worker", func() bool { return r.count(pool.Warm) == 1 })
	for i := range dials {
		if why := r.dial(t, of("a", "i", i+1, dials+1)).rejected(); !strings.Contains(why, "has said that it has 1 slots") {
			t.Errorf("more slots than it has said: %q", why)
		}
		if why := r.dial(t, of("a", fmt.Sprint(i), 0, 1)).rejected(); !strings.Contains(why, `another agent called "a" is connected from 127.0.0.1`) {
			t.Errorf("the slot again, by another process: %q", why)
		}
	}
	group := of("a", "i", 0, 1)
	group.Group = "other"
	one := r.dial(t, group) // instead of the one that was there
	one.expect(link.Welcome)
	last.ends()
	one.state(link.Warm)
	eventually(t, "its worker, still one", func() bool { return r.count(pool.Warm) == 1 && len(r.Workers()) == 1 })
}

// A session's worker stays its own while another agent of that name knocks, which gets in
// when the first has ended.
func TestTwoAgentsOfOneName(t *testing.T) {
	t.Parallel()
	r := start(t, brief)
	first := r.park(t, "a")
	w, s := r.bind(t, first)
	if why := r.dial(t, of("a", "other", 0, 1)).rejected(); !strings.Contains(why, "--name of its own") {
		t.Errorf("%q", why)
	}
	if why := r.dial(t, of("a", "other", 3, 4)).rejected(); !strings.Contains(why, "--name of its own") {
		t.Errorf("another slot: %q", why)
	}
	for range 2 {
		if err := want(t, r.served, "the refusal"); !errors.Is(err, pool.ErrTaken) {
			t.Errorf("Serve returned %v", err)
		}
	}
	first.data("mine")
	s.expect(t, "data mine")
	first.Close()
	want(t, w.Over(), "the end of the first")
	want(t, r.served, "the end of its connection")
	r.dial(t, of("a", "other", 3, 4)).expect(link.Welcome)
}

// An agent that was restarted comes in as soon as the connections of its predecessor end,
// which it may see before the rendezvous does.
func TestSuccessorWaits(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *pool.Config) { c.TakeoverLimit = patience })
	var before []*agent
	for i := range 3 {
		a := r.dial(t, of("a", "first", i, 3))
		a.expect(link.Welcome)
		before = append(before, a)
	}
	after := r.dial(t, of("a", "second", 1, 2))
	for _, a := range before {
		a.Close()
	}
	after.expect(link.Welcome)
	if all := r.Workers(); len(all) != 1 || all[0].Name() != "a/1" {
		t.Errorf("%+v", all)
	}
}

// stuck is a session that does not read for a while.
type stuck struct {
	*sink
	reading chan struct{} // has an element while it is given data
	read    chan struct{} // closed when it reads
}

func (s stuck) Data(p []byte) {
	select {
	case s.reading <- struct{}{}:
	default:
	}
	<-s.read
	s.sink.Data(p)
}

// So does one whose predecessor ended while nobody read its connection; what that had said
// reaches its session all the same.
func TestSuccessorOfOneThatIsNotRead(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *pool.Config) { c.TakeoverLimit = patience })
	first := r.park(t, "a")
	w := r.hold(t, first)
	session := stuck{newSink(), make(chan struct{}, 1), make(chan struct{})}
	if err := w.Bind(session); err != nil {
		t.Fatal(err)
	}
	first.data("a lot")
	want(t, session.reading, "the session to be busy")
	first.data("its end")
	after := r.dial(t, of("a", "second", 0, 1))
	first.Close()
	after.expect(link.Welcome)
	close(session.read)
	for _, event := range []string{"data a lot", "data its end"} {
		if got := want(t, session.events, event); got != event {
			t.Errorf("the session was told %q, want %q", got, event)
		}
	}
	want(t, r.served, "the end of the first connection")
	if got := want(t, session.events, "the end of the worker"); !strings.HasPrefix(got, "ended:") {
		t.Errorf("the session was told %q", got)
	}
	if all := r.Workers(); len(all) != 1 {
		t.Errorf("%+v", all)
	}
}

// Whom the pool does not admit is told why, and has no slot.
func TestNotAdmitted(t *testing.T) {
	t.Parallel()
	no := errors.New("no pod is called stranger")
	r := start(t, func(c *pool.Config) {
		c.Admit = func(_ context.Context, _ *link.Conn, hello link.HelloMessage) error {
			if hello.Agent == "stranger" {
				return no
			}
			return nil
		}
	})
	if why := r.dial(t, hello("stranger")).rejected(); why != no.Error() {
		t.Errorf("%q", why)
	}
	if err := want(t, r.served, "the refusal"); !errors.Is(err, no) {
		t.Errorf("Serve returned %v", err)
	}
	r.park(t, "worker")
	r.expectCounts(t, map[pool.State]int{pool.Warm: 1})
}
