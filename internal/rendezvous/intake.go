package rendezvous

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/socket"
	"go.uber.org/zap"
)

const (
	// maxPending bounds the connections that have not introduced themselves yet.
	maxPending = 512
	// crowdPatience is how long one more waits then in the listener's backlog. An
	// agent's handshake takes milliseconds, and when all agents dial at once, after
	// a restart, 512 take a second of a busy core. What is older than this is no
	// agent and is closed.
	crowdPatience = link.HandshakeLimit / 2
	// backlog bounds how many wait there. Those who wait for longer than they bear would be
	// served in vain, all of them once there are enough: ten thousand agents that dial
	// again after a restart would hardly get in.
	backlog = maxPending
	// maxPendingEach bounds those of one address once there is no room, so that one host
	// that opens thousands keeps only itself out: one more of it is closed at once, and
	// makes room for one of another address at once. While there is room, a host of many
	// slots, or a NAT, may have all of it.
	maxPendingEach = maxPending / 2
)

// intake accepts agents' connections and gives those that introduce themselves to
// the pool.
type intake struct {
	log     *zap.Logger
	pool    *pool.Pool
	tls     *tls.Config // nil: plain TCP
	timing  link.Timing
	peerUID func(local, remote net.Addr) (uint32, error)
	uids    []uint32 // who may dial without TLS
	refused *refusals
	guard   *guard
	left    chan struct{} // has an element after a stranger has left

	mu      sync.Mutex
	pending *list.List         // of *stranger, oldest first
	each    map[netip.Addr]int // of pending, by their address
}

// stranger is a connection before its Hello.
type stranger struct {
	net.Conn
	came       time.Time
	from       netip.Addr
	crowdedOut string // the reason; guarded by intake.mu
}

func newIntake(config Config, p *pool.Pool, g *guard) *intake {
	in := &intake{
		log: config.Log, pool: p, tls: config.TLS, timing: config.Timing,
		peerUID: config.Prober.PeerUID, uids: append([]uint32{0, uint32(os.Geteuid())}, config.UIDs...),
		refused: g.refusals, guard: g,
		left: make(chan struct{}, 1), pending: list.New(), each: make(map[netip.Addr]int),
	}
	in.timing.Pacer = link.NewPacer(link.PacerInterval)
	return in
}

// run accepts until ctx ends or listener fails, and returns when the last
// connection has ended.
func (in *intake) run(ctx context.Context, listener net.Listener) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	// A listener that fails ends the connections, too: agents do not leave by
	// themselves, and whoever runs us waits for the error.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	if tcp, ok := listener.(*net.TCPListener); ok {
		if err := socket.SetBacklog(tcp, backlog); err != nil {
			return err
		}
	}
	connections.Go(func() { in.timing.Pacer.Run(ctx) })
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if !temporary(err) {
				return err
			}
			in.log.Error("cannot accept a connection, trying on", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		s := &stranger{Conn: conn, came: time.Now(), from: source(conn.RemoteAddr())}
		if in.full(s.from) {
			conn.Close()
			in.refused.note(conn.RemoteAddr(), refusedAddress, errTooMany)
			continue
		}
		leave, err := in.enter(ctx, s)
		if err != nil {
			conn.Close()
			return err
		}
		connections.Go(func() { in.serve(ctx, s, leave) })
	}
}

// temporary: out of file descriptors or memory, or a connection that was gone
// before it was accepted.
func temporary(err error) bool { return !errors.Is(err, net.ErrClosed) }

func (in *intake) serve(ctx context.Context, s *stranger, leave func()) {
	defer leave()
	reason, err := in.admit(ctx, s, leave)
	if err == nil || ctx.Err() != nil {
		return
	}
	if crowded := in.wasCrowdedOut(s); crowded != "" {
		reason, err = crowded, errTooMany
	}
	in.refused.note(s.RemoteAddr(), reason, err)
}

// errTooMany: others wait for the place of a connection that says nothing.
var errTooMany = fmt.Errorf("too many connections that have not introduced themselves: %d may wait, and %d of one address while others do", maxPending, maxPendingEach)

// admit takes the stranger through what makes it an agent and serves it to its end.
// It owns its connection. An error says why it was refused.
func (in *intake) admit(ctx context.Context, s *stranger, leave func()) (reason string, err error) {
	if err := in.checkUser(s); err != nil {
		s.Close()
		return refusedUser, err
	}
	linked, err := link.Accept(ctx, s.Conn, in.tls, in.timing)
	if err != nil {
		return refusedTLS, err
	}
	defer in.guard.forget(linked)
	err = in.pool.Serve(ctx, linked, leave)
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		return refused.reason, refused
	case errors.Is(err, pool.ErrTaken):
		return refusedSlot, err
	}
	return refusedProtocol, err
}

// checkUser refuses, on loopback without TLS, processes of users that have no part
// in this: what an agent is sent is the session's data, and what it answers the
// session unserializes. Without TLS off loopback everybody is let in: that has a
// flag, which says so.
func (in *intake) checkUser(conn net.Conn) error {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if in.tls != nil || ok && !remote.IP.IsLoopback() {
		return nil
	}
	uid, err := in.peerUID(conn.LocalAddr(), conn.RemoteAddr())
	if err != nil {
		return err
	}
	if !slices.Contains(in.uids, uid) {
		return fmt.Errorf("the process belongs to user %d; without TLS only the users %d may run agents: use 'rendezvous certs' and --tls-dir", uid, in.uids)
	}
	return nil
}

// wasCrowdedOut is the reason why s had to make room, "" if it had not.
func (in *intake) wasCrowdedOut(s *stranger) (reason string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return s.crowdedOut
}

// enter counts s as pending until the returned function is called; when there are
// too many it waits for room. It fails when ctx ends.
func (in *intake) enter(ctx context.Context, s *stranger) (leave func(), err error) {
	for {
		wait := in.makeRoom()
		if wait <= 0 {
			return in.add(s), nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-in.left:
		case <-timer.C:
		}
		timer.Stop()
		if err != nil {
			return nil, err
		}
	}
}

// makeRoom makes sure that there is room for one more, or says how long to wait for
// the oldest to be old enough to be closed.
func (in *intake) makeRoom() (wait time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pending.Len() < maxPending {
		return 0
	}
	if element := in.last(); element != nil {
		in.crowdOut(element, refusedAddress)
		return 0
	}
	front := in.pending.Front()
	if wait := crowdPatience - time.Since(front.Value.(*stranger).came); wait > 0 {
		return wait
	}
	in.crowdOut(front, refusedCrowded)
	return 0
}

// last is the youngest stranger of an address that has more than its share, nil if there is
// none: where these are agents, it has done least. Called with the lock held.
func (in *intake) last() *list.Element {
	for element := in.pending.Back(); element != nil; element = element.Prev() {
		if in.each[element.Value.(*stranger).from] > maxPendingEach {
			return element
		}
	}
	return nil
}

// crowdOut closes a stranger's connection. Called with the lock held.
func (in *intake) crowdOut(element *list.Element, reason string) {
	s := element.Value.(*stranger)
	s.crowdedOut = reason
	in.drop(element)
	s.Close()
}

// full reports whether there is no room, and an address has its share or more. None of these
// makes room for the next: where a burst of agents shares an address, and handshakes are slow, those that
// dial again would push out those in the middle of theirs. link.HandshakeLimit ends the silent ones.
func (in *intake) full(from netip.Addr) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.pending.Len() >= maxPending && in.each[from] >= maxPendingEach
}

// drop ends that the stranger of element counts. Called with the lock held, more than once
// for one that was pushed out.
func (in *intake) drop(element *list.Element) {
	s := element.Value.(*stranger)
	before := in.pending.Len()
	in.pending.Remove(element)
	if in.pending.Len() == before {
		return
	}
	if in.each[s.from]--; in.each[s.from] == 0 {
		delete(in.each, s.from)
	}
}

func (in *intake) add(s *stranger) (leave func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	element := in.pending.PushBack(s)
	in.each[s.from]++
	return func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.drop(element)
		select {
		case in.left <- struct{}{}:
		default:
		}
	}
}
