package elastic_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pool"
)

const (
	// launch is what a future costs the session's own R before it is sent.
	launch = 5 * time.Millisecond
	// offerAfter is after how long without a call a node's worker is anybody's
	// (internal/relay).
	offerAfter = 10 * time.Second
	// acquiring is for how many workers a lease waits at once (internal/lease).
	acquiring = 32
)

// load is what a session does: futures one after another on its nodes, from one moment
// until another.
type load struct {
	kind        string
	nodes       int
	from, until time.Duration
	least, most time.Duration // that a future takes
	// whole: not futures that take turns on what workers there are, but a cluster that
	// holds a worker for each node, as parLapply wants it, by a lease.
	whole bool
}

// session is an R session, as the pool sees it.
type session struct {
	load
	pool   *pool.Pool
	poke   func()
	tenant *pool.Tenant
	setUp  pool.SetUp
	start  time.Time

	busy    atomic.Int64 // nodes whose future runs
	futures atomic.Int64 // that are done
	lost    atomic.Int64 // that ran when their worker ended
	fresh   atomic.Int64 // workers that it had, other than from node to node
}

// run does what the session does, from its beginning to its end.
func (s *session) run(ctx context.Context, number int) {
	if !pause(ctx, time.Until(s.start.Add(s.from))) {
		return
	}
	s.enter(number)
	if s.whole {
		s.compute(ctx)
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	done := make(chan int, s.nodes)
	nodes, free := make([]*node, s.nodes), make([]bool, s.nodes)
	for i := range nodes {
		nodes[i], free[i] = s.node(), true
		running.Go(func() { nodes[i].run(ctx, func() { done <- i }) })
		defer close(nodes[i].calls)
	}
	// future takes the first node that is free, and waits when none is.
	for time.Since(s.start) < s.until && pause(ctx, launch) {
		for len(done) > 0 {
			free[<-done] = true
		}
		i := slices.Index(free, true)
		if i < 0 {
			select {
			case i = <-done:
			case <-ctx.Done():
				return
			}
		}
		free[i] = false
		nodes[i].calls <- s.future()
	}
}

// enter makes the session known to the pool.
func (s *session) enter(number int) {
	s.tenant = s.pool.NewTenant(fmt.Sprintf("%s %d", s.kind, number), 0)
	s.setUp = pool.SetUp{byte(number), byte(number >> 8), 1}
}

func (s *session) node() *node {
	return &node{session: s, calls: make(chan time.Duration, 1), answers: make(chan struct{}, 1)}
}

func (s *session) future() time.Duration { return s.least + rand.N(s.most-s.least) }

// node is one of a session's, and what internal/relay makes of it. One goroutine has it.
type node struct {
	session *session
	calls   chan time.Duration
	answers chan struct{}
	worker  *pool.Worker // nil while it has none
}

// run makes calls until there are no more.
func (n *node) run(ctx context.Context, done func()) {
	idle := time.NewTimer(offerAfter)
	defer idle.Stop()
	for {
		var recalled, over <-chan struct{}
		if n.worker != nil {
			recalled, over = n.worker.Recalled(), n.worker.Over()
		}
		select {
		case took, more := <-n.calls:
			if !more || !n.call(ctx, took) {
				if n.worker != nil {
					n.worker.End()
				}
				return
			}
			idle.Reset(offerAfter)
			done()
		case <-recalled:
			n.yield()
		case <-over:
			n.worker = nil
		case <-idle.C:
			if n.worker != nil {
				n.worker.Offer(n.session.setUp, true)
			}
		}
	}
}

// yield gives the node's worker to somebody who should have it, if anybody should.
func (n *node) yield() {
	select {
	case <-n.worker.Recalled():
	default:
		return
	}
	if n.worker.Yield() {
		n.worker.End()
		n.worker = nil
	}
}

// call runs a future, on the node's worker or on another; false when ctx has ended.
func (n *node) call(ctx context.Context, took time.Duration) bool {
	s := n.session
	if n.worker != nil {
		n.worker.Keep()
	}
	for lost := false; ; lost = true {
		if n.worker == nil && n.acquire(ctx, lost) != nil {
			return false
		}
		sent := n.worker.SendData(call(took)) == nil
		if sent {
			s.busy.Add(1)
			select {
			case <-n.answers:
				s.busy.Add(-1)
				s.futures.Add(1)
				n.worker.Offer(s.setUp, false)
				return true
			case <-n.worker.Over():
				s.lost.Add(1)
			case <-ctx.Done():
			}
			s.busy.Add(-1)
		}
		if ctx.Err() != nil {
			return false
		}
		n.worker = nil
	}
}

// acquire gets the node a worker.
func (n *node) acquire(ctx context.Context, lost bool) error {
	s := n.session
	for {
		s.poke()
		w, err := s.pool.Acquire(ctx, pool.Want{Tenant: s.tenant, SetUps: []pool.SetUp{s.setUp}, Total: s.nodes, Urgent: lost})
		if err != nil {
			return err
		}
		if w.SetUp() == (pool.SetUp{}) {
			s.fresh.Add(1)
		}
		if w.Bind(n) == nil {
			n.worker = w
			return nil
		}
	}
}

// Data, EOF, Drain and Ended are those of a pool.Sink.
func (n *node) Data([]byte)                 { n.answers <- struct{}{} }
func (n *node) EOF()                        {}
func (n *node) Drain()                      {}
func (n *node) Ended(string, func() string) {}

// compute is a cluster that holds a worker for each node: it waits for all of them, as a
// lease does, makes calls on each, and ends.
func (s *session) compute(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	turns := make(chan struct{}, acquiring)
	ready := make(chan struct{})
	complete := sync.OnceFunc(func() {
		s.pool.Complete(s.tenant)
		close(ready)
	})
	var held atomic.Int64
	for range s.nodes {
		n := s.node()
		running.Go(func() {
			if !n.hold(ctx, turns, ready, &held, complete) || n.worker.Bind(n) != nil {
				return
			}
			for n.call(ctx, s.future()) && time.Since(s.start) < s.until {
			}
			if n.worker != nil {
				n.worker.End()
			}
		})
	}
}

// hold has the node hold a worker when all nodes do; complete is called by the last one.
// What an older cluster waits for is given back meanwhile.
func (n *node) hold(ctx context.Context, turns chan struct{}, ready <-chan struct{}, held *atomic.Int64, complete func()) bool {
	s := n.session
	for {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		s.poke()
		w, err := s.pool.Acquire(ctx, pool.Want{Tenant: s.tenant, Whole: true, Total: s.nodes})
		<-turns
		if err != nil {
			return false
		}
		if held.Add(1) == int64(s.nodes) {
			complete()
		}
		select {
		case <-ready:
			n.worker = w
			return true
		case <-w.Over():
		case <-w.Recalled():
		case <-ctx.Done():
		}
		held.Add(-1)
		w.Release() // nothing, for one that is over
		if ctx.Err() != nil {
			return false
		}
	}
}
