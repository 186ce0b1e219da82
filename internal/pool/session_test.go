package pool_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestSession(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	a.data("dropped: nobody holds this worker")
	a.check(a.SendEOF())
	w, s := r.bind(t, a)
	if got := r.snapshot(t); got.State != pool.Bound || got.Cluster != "cluster" {
		t.Errorf("bound: %+v", got)
	}
	if err := w.Bind(newSink()); err == nil {
		t.Error("bound twice")
	}
	w.Release() // no longer untouched

	if err := w.SendData(dataFrame("to the worker")); err != nil {
		t.Fatal(err)
	}
	if got := string(a.expect(link.Data).Payload); got != "to the worker" {
		t.Errorf("the agent got %q", got)
	}
	a.data("one")
	s.expect(t, "data one")
	a.data("two")
	s.expect(t, "data two")

	w.End()
	w.End()
	a.expect(link.EOF)
	if got := r.snapshot(t); got.State != pool.Ending {
		t.Errorf("after End: %+v", got)
	}
	a.data("three")
	s.expect(t, "data three")
	a.check(a.SendEOF())
	a.send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
	a.data("dropped: the worker is over")
	s.expect(t, "eof", "ended: its session ended")
	want(t, w.Over(), "the worker to be over")

	a.state(link.Warm)
	next, nextSink := r.bind(t, a)
	if got := r.snapshot(t); got.LastExit != "" || next.Name() != w.Name() {
		t.Errorf("after an expected exit: %+v", got)
	}
	if n := r.metric(t, "rendezvous_worker_deaths_total", "exited"); n != 0 {
		t.Errorf("%v deaths, want none", n)
	}
	w.End() // the first holder has no say in this session
	nextSink.expect(t)
	s.expect(t)
	if got := r.snapshot(t); got.State != pool.Bound {
		t.Errorf("ended by the holder before: %+v", got)
	}
}

func TestUnexpectedExit(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	w, s := r.bind(t, a)
	a.data("half a res")
	a.send(link.Exit, link.ExitMessage{Cause: "killed by the kernel: out of memory", Lines: []string{"last words"}})
	s.expect(t, "data half a res", "ended: killed by the kernel: out of memory")
	want(t, w.Over(), "the worker to be over")
	if got := r.snapshot(t); got.State != pool.Starting || got.LastExit != "killed by the kernel: out of memory" || got.Cluster != "" {
		t.Errorf("after a death: %+v", got)
	}
	// An untouched one's death counts as well.
	a.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 1 })
	a.send(link.Exit, link.ExitMessage{Cause: "exit status 1"})
	eventually(t, "the second death", func() bool { return r.snapshot(t).LastExit == "exit status 1" })
	r.expectCounts(t, map[pool.State]int{pool.Starting: 1})
	if n := r.metric(t, "rendezvous_worker_deaths_total", "exited"); n != 2 {
		t.Errorf("%v deaths, want 2", n)
	}
	// It is told until the slot's next exit that was expected.
	a.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 1 })
	if got := r.snapshot(t); got.LastExit != "exit status 1" {
		t.Errorf("warm again: %+v", got)
	}
}

// Deaths are counted by their kind; one that nobody knows is an exit.
func TestDeathsByReason(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	deaths := func() string {
		var counts []string
		for _, reason := range []string{"exited", "signal", "out_of_memory", "drained", "connection_lost"} {
			counts = append(counts, fmt.Sprintf("%s %v", reason, r.metric(t, "rendezvous_worker_deaths_total", reason)))
		}
		return strings.Join(counts, ", ")
	}
	for i, exit := range []link.ExitMessage{
		{Kind: link.ExitStatus},
		{Kind: link.ExitStatus, Expected: true},
		{Kind: link.ExitSignal},
		{Kind: link.ExitSignal, Expected: true},
		{Kind: link.ExitNoMemory},
		{Kind: link.ExitDrained, Expected: true},
		{Kind: "plague"},
	} {
		_, s := r.bind(t, a)
		exit.Cause = fmt.Sprint("cause ", i)
		a.send(link.Exit, exit)
		s.expect(t, "ended: "+exit.Cause)
		a.state(link.Warm)
	}
	// A connection that is lost is the death of a worker that has a session, and only
	// while it is to go on.
	w, s := r.bind(t, a)
	w.End()
	a.expect(link.EOF)
	a.Close()
	want(t, s.events, "the end")
	r.park(t, "idle").Close()
	eventually(t, "it to leave", func() bool { return len(r.Workers()) == 0 })
	b := r.park(t, "another")
	_, s = r.bind(t, b)
	b.Close()
	want(t, s.events, "the end")
	if got := deaths(); got != "exited 2, signal 1, out_of_memory 1, drained 1, connection_lost 1" {
		t.Error(got)
	}
}

// Each way in which a bound worker can be lost is told once, and nothing follows.
func TestBoundWorkerLost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		lose func(r *rendezvous, a *agent)
		says string
	}{
		{"connection", func(_ *rendezvous, a *agent) { a.Close() }, "ended: its connection was lost: EOF"},
		{
			"violation", func(_ *rendezvous, a *agent) { a.check(a.SendNumber(link.Release, 1)) },
			"ended: its connection was lost: protocol error: an agent does not send release",
		},
		{"warm without an exit", func(_ *rendezvous, a *agent) { a.state(link.Warm) }, "ended: the worker was replaced"},
		{"failed without an exit", func(_ *rendezvous, a *agent) { a.state(link.Failed) }, "ended: the worker was replaced"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			a := r.park(t, "agent")
			w, s := r.bind(t, a)
			test.lose(r, a)
			s.expect(t, test.says)
			want(t, w.Over(), "the worker to be over")
			w.End()
			r.stop()
			want(t, r.served, "the connection's end")
			s.expect(t)
		})
	}
}

// While a sink takes its time, other slots' workers are served.
func TestBlockedSinkBlocksNobodyElse(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	slow, quick := r.park(t, "slow"), r.park(t, "quick")
	w, free := r.hold(t, slow), make(chan struct{})
	blocked := &blockingSink{sink: newSink(), entered: make(chan struct{}), free: free}
	if err := w.Bind(blocked); err != nil {
		t.Fatal(err)
	}
	slow.data("x")
	want(t, blocked.entered, "the first sink to block")
	_, s := r.bind(t, quick)
	quick.data("y")
	s.expect(t, "data y")
	if len(r.Workers()) != 2 {
		t.Error("no snapshot while a sink blocks")
	}
	close(free)
	blocked.expect(t, "data x")
}

// What is known elsewhere of an agent that was lost reaches its session and the log;
// the connection is closed before that is waited for, and an orderly end has no reason.
func TestReasonOfALostAgent(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	asked, known := make(chan string), make(chan string)
	r := start(t, func(c *pool.Config) {
		c.Log = zap.New(core)
		c.Why = func(_ context.Context, agent string) string {
			asked <- agent
			return <-known
		}
	})
	for why, explained := range map[string]string{
		"OOMKilled, exit code 137": "OOMKilled, exit code 137; its connection was lost: protocol error: an agent does not send release",
		"":                         "its connection was lost: protocol error: an agent does not send release",
	} {
		a := r.park(t, "pod-a")
		_, sink := r.bind(t, a)
		a.check(a.SendNumber(link.Release, 1))
		// The session is told at once, and may ask for more.
		sink.expect(t, "ended: its connection was lost: protocol error: an agent does not send release")
		if got := want(t, asked, "the question"); got != "pod-a" {
			t.Errorf("asked for %s", got)
		}
		a.ends()
		known <- why
		if got := sink.explain(); got != explained {
			t.Errorf("the session is told %q, want %q", got, explained)
		}
		want(t, r.served, "the end of the slot")
		lost := logs.FilterMessage("slot lost").TakeAll()
		if len(lost) == 0 || fmt.Sprint(lost[len(lost)-1].ContextMap()["cause"]) != explained {
			t.Errorf("the log says %v", lost)
		}
		logs.TakeAll()
	}
	r.park(t, "pod-a").Close()
	want(t, r.served, "the end of the slot")
	if logs.FilterMessage("slot left").Len() != 1 {
		t.Errorf("the log says %v", logs.All())
	}
}

type blockingSink struct {
	*sink
	entered, free chan struct{}
}

func (s *blockingSink) Data(p []byte) {
	close(s.entered)
	<-s.free
	s.sink.Data(p)
}

// An agent that does not end the worker of a session which is over loses its
// connection.
func TestWorkerThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *pool.Config) { c.EndLimit = 50 * time.Millisecond })
	a := r.park(t, "agent")
	w, sink := r.bind(t, a)
	w.End()
	a.expect(link.EOF)
	a.ends()
	if got := want(t, sink.events, "the end"); !strings.HasPrefix(got, "ended: its connection was lost") {
		t.Errorf("the sink was told %q", got)
	}
}

// Abort does not wait for what is on its way to the worker.
func TestAbort(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	w, _ := r.bind(t, a)
	failed := make(chan error, 1)
	go func() {
		for {
			if err := w.SendData(make([]byte, link.HeaderSize+link.MaxData)); err != nil {
				failed <- err
				return
			}
		}
	}()
	w.Abort()
	if err := want(t, failed, "SendData to return"); err == nil {
		t.Error("no error")
	}
	want(t, w.Over(), "the worker to be over")
	w.Abort()
}
