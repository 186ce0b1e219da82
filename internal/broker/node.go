package broker

import (
	"context"
	"errors"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/socket"
	"go.uber.org/zap"
)

// node is one node of a session's cluster. One goroutine owns it: serve.
type node struct {
	broker  *Broker
	demand  *demand
	cluster *cluster
	client  *socket.Conn // to the session; nil until connected
	first   chan first   // what the session sends first

	// Guarded by Broker.mu.
	worker    *pool.Worker
	latest    *pool.Worker // that it had, whoever has it now
	session   *relay.Session
	connected bool   // to its session, which has closed its listener
	peer      uint16 // the rendezvous' port of the connection, see Nodes
	refused   bool
	again     bool // it came to a cluster that was complete
	placed    bool // it is known which node it replaces, see missedBy
	missed    string
	endNoted  bool // its end is noted, see noteEnd
	since     time.Time
}

var (
	errGone  = errors.New("the session listens no more")
	errUnmet = errors.New("no worker became ready in time")
)

// serve takes one demand through its life.
func (b *Broker) serve(ctx context.Context, d *demand) {
	n := &node{broker: b, demand: d, since: d.seen, first: make(chan first, 1)}
	whose, err := b.claim(ctx, d)
	if err != nil {
		b.pass(b.config.Log, d, err)
		return
	}
	n.cluster = b.join(n, whose)
	defer b.leave(n)
	log := b.config.Log.With(zap.Int("cluster", n.cluster.id), zap.Uint16("port", d.Port))

	open := n.open
	if n.cluster.shared {
		open = n.openShared
	}
	opening, err := open(ctx)
	for err == nil {
		b.start(n.cluster)
		if n.run(ctx, log, opening) == nil {
			break
		}
		// The worker died in the moment between; nothing was sent to it.
		n.drop()
		err = n.acquire(ctx)
	}
	if errors.Is(err, errUnmet) {
		err = n.refuse(ctx, log, opening)
	}
	b.pass(log, d, err)
	n.drop()
	if n.client != nil {
		n.connectedFrom(0)
		n.client.Close()
	}
}

// pass notes that d wants no worker, if err says so.
func (b *Broker) pass(log *zap.Logger, d *demand, err error) {
	var foreign errForeign
	if errors.As(err, &foreign) {
		b.config.Metrics.foreign[string(foreign)].Inc()
		log.Info("listener wants no worker", zap.String("reason", string(foreign)), zap.Uint16("port", d.Port), zap.Uint32("uid", d.UID))
	}
}

// open gets the node a worker and connects it to the session, and waits until the
// session speaks: with makeClusterPSOCK, when its last node is connected. Until
// then the worker is untouched, and is given back if nothing comes of it.
func (n *node) open(ctx context.Context) (opening []byte, err error) {
	if n.broker.refusal(n.cluster) != "" {
		return nil, errUnmet
	}
	if err := n.acquire(ctx); err != nil {
		return nil, err
	}
	if err := n.connect(ctx); err != nil {
		return nil, errGone
	}
	if err := n.recognise(ctx); err != nil {
		return nil, err
	}
	n.noteConnected()
	for {
		if n.worker == nil { // given back meanwhile
			if err := n.acquire(ctx); err != nil {
				return nil, err
			}
		}
		select {
		case f := <-n.first:
			if f.err != nil {
				return nil, errGone
			}
			if err := n.ownedAsSeen(); err != nil {
				return nil, err
			}
			opening = f.frame
		case <-n.worker.Over():
			// It died before the session sent anything: nobody need notice.
			n.drop()
			continue
		case <-n.worker.Recalled():
			// An older cluster waits for it. The session does not notice, either.
			n.drop()
			continue
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return opening, nil
	}
}

// openShared connects the node to its session, which has it wait for a worker when it
// makes its first call.
func (n *node) openShared(ctx context.Context) (opening []byte, err error) {
	if err := n.connect(ctx); err != nil {
		return nil, errGone
	}
	if err := n.recognise(ctx); err != nil {
		return nil, err
	}
	n.noteConnected()
	select {
	case f := <-n.first:
		if f.err != nil {
			return nil, errGone
		}
		return f.frame, n.ownedAsSeen()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// noteConnected notes that the session has taken the connection, and wants a worker.
func (n *node) noteConnected() {
	n.broker.config.Metrics.latency.Observe(time.Since(n.demand.seen).Seconds())
	n.broker.leaseConnected(n.cluster)
	n.broker.mu.Lock()
	defer n.broker.mu.Unlock()
	n.connected = true
}

// acquire reserves a worker, while the session waits for it: within the demand timeout,
// or for as long as workers are being started.
func (n *node) acquire(ctx context.Context) error {
	for {
		err := n.acquireInTime(ctx)
		if _, starting := n.broker.scaling(n.cluster.group()); !starting || !errors.Is(err, errUnmet) {
			return err
		}
	}
}

func (n *node) acquireInTime(ctx context.Context) error {
	waiting, cancel := context.WithTimeoutCause(ctx, n.broker.config.DemandTimeout, errUnmet)
	defer cancel()
	for {
		w, err := n.acquireAs(waiting)
		switch {
		case err == nil:
			n.broker.mu.Lock()
			n.worker, n.latest = w, w
			n.broker.mu.Unlock()
			return nil
		case errors.Is(err, errPromoted):
		case errors.Is(context.Cause(waiting), errUnmet):
			return errUnmet
		default:
			return errGone
		}
	}
}

// errPromoted: the node waited as one of a cluster that forms, and it is ready.
var errPromoted = errors.New("the cluster is ready")

// acquireAs waits with what the node's cluster wants now.
func (n *node) acquireAs(ctx context.Context) (*pool.Worker, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	want, promoted := n.cluster.want()
	// Before the node is connected, its listener tells whether the session is
	// there; after that, the connection does.
	gone, first := n.demand.gone, n.first
	if n.client == nil {
		first = nil
	} else {
		gone = nil
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-gone:
			cancel(errGone)
		case f := <-first:
			n.first <- f // for open
			if f.err != nil {
				cancel(errGone)
			} else if promoted != nil {
				n.broker.start(n.cluster)
				cancel(errPromoted)
			}
		case <-promoted:
			cancel(errPromoted)
		case <-stop:
		}
	}()
	w, err := n.reserve(ctx, want)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return w, err
}

// drop gives the worker back, if there is one and nobody has bound it.
func (n *node) drop() {
	n.broker.mu.Lock()
	w := n.worker
	n.worker = nil
	n.broker.mu.Unlock()
	if w != nil {
		w.Release() // nothing, if it was bound
	}
}

// bindable is a reserved worker as the relay knows it.
type bindable struct{ *pool.Worker }

func (w bindable) Bind(sink relay.Sink) error { return w.Worker.Bind(sink) }

// run relays until the session has ended, or cannot go on. It fails when the worker
// ended before it was bound.
func (n *node) run(ctx context.Context, log *zap.Logger, opening []byte) error {
	b := n.broker
	recovery := relay.Recovery{
		Acquire: n.another, Attempts: b.config.MaxAttempts, Budget: b.config.Journal, Scarce: n.scarce,
		Shared: n.cluster.shared, Together: n.cluster.lease != nil && n.cluster.shared, Answers: n.cluster.answers,
		Missed: b.missedBy(n),
	}
	if recovery.Missed != "" { // it gets a worker for what R asks before it is told
		n.drop()
		log.Info("node replaces one that had state, its session gets an R error", zap.String("lost", recovery.Missed))
	}
	s := relay.New(n.client, b.config.Relay.Observer(log), recovery, n.abandoned)
	stop := context.AfterFunc(ctx, func() { n.client.Close() })
	defer stop()
	b.mu.Lock()
	n.session, n.since = s, time.Now()
	b.mu.Unlock()
	var worker relay.Worker
	if n.worker != nil {
		worker = bindable{n.worker}
		log.Debug("node bound", zap.String("worker", n.worker.Name()))
	}
	b.config.Metrics.binds.Inc()
	cause, err := s.Run(worker, opening)
	if err != nil {
		b.mu.Lock()
		n.session = nil
		b.mu.Unlock()
		return err
	}
	log.Debug("node ended", zap.String("cause", cause))
	return nil
}

// held is the name of the node's worker, "" for none. Called with Broker.mu held.
func (n *node) held() string {
	switch {
	case n.session != nil:
		return n.session.Worker()
	case n.worker != nil:
		return n.worker.Name()
	}
	return ""
}

// holds reports whether the node has a worker. Called with Broker.mu held.
func (n *node) holds() bool { return n.held() != "" }

// shares reports whether the node's worker goes to others between two futures. Called
// with Broker.mu held.
func (n *node) shares() bool { return n.session != nil && n.session.Shares() }

// snapshot describes the node. Called with Broker.mu held.
func (n *node) snapshot() NodeSnapshot {
	s := NodeSnapshot{State: "waiting", Since: n.since}
	switch {
	case n.refused:
		s.State = "refused"
	case n.session != nil:
		s.State, s.Worker, s.Activity = "bound", n.session.Worker(), n.session.Activity()
		if s.Worker == "" {
			s.State = "vacant"
		}
	case n.worker != nil:
		s.State, s.Worker = "connected", n.worker.Name()
	case n.connected:
		s.State = "vacant"
	}
	return s
}
