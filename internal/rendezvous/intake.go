package rendezvous

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"go.uber.org/zap"
)

// maxPending bounds the connections that have not introduced themselves yet. When
// it is reached the oldest is closed: an agent's handshake takes milliseconds, so
// what is old is not an agent.
const maxPending = 512

// Reasons of a refused connection, the labels of the metric.
const (
	refusedTLS      = "tls"      // no TLS, no certificate, a foreign one
	refusedProtocol = "protocol" // TLS was right, what followed was not
	refusedCrowded  = "crowded"  // it was the oldest of too many silent ones
)

// intake accepts agents' connections and gives those that introduce themselves to
// the pool.
type intake struct {
	log     *zap.Logger
	pool    *pool.Pool
	tls     *tls.Config // nil: plain TCP
	timing  link.Timing
	refused map[string]prometheus.Counter

	mu      sync.Mutex
	pending *list.List // of *stranger, oldest first
}

// stranger is a connection before its Hello.
type stranger struct {
	net.Conn
	crowdedOut bool // guarded by intake.mu
}

func newIntake(log *zap.Logger, p *pool.Pool, config *tls.Config, timing link.Timing, register prometheus.Registerer) *intake {
	in := &intake{log: log, pool: p, tls: config, timing: timing, pending: list.New(), refused: make(map[string]prometheus.Counter)}
	refused := promauto.With(register).NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_refused_connections_total",
		Help: "Connections to the agents' port that were refused: tls (no or a wrong certificate), protocol (no agent), crowded (silent while too many others were).",
	}, []string{"reason"})
	for _, reason := range []string{refusedTLS, refusedProtocol, refusedCrowded} {
		in.refused[reason] = refused.WithLabelValues(reason)
	}
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
		connections.Go(func() { in.serve(ctx, conn) })
	}
}

// temporary: out of file descriptors or memory, or a connection that was gone
// before it was accepted.
func temporary(err error) bool { return !errors.Is(err, net.ErrClosed) }

func (in *intake) serve(ctx context.Context, conn net.Conn) {
	s := &stranger{Conn: conn}
	leave := in.enter(s)
	defer leave()
	linked, err := link.Accept(ctx, conn, in.tls, in.timing)
	reason := refusedTLS
	if err == nil {
		reason = refusedProtocol
		err = in.pool.Serve(ctx, linked, leave)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	if in.wasCrowdedOut(s) {
		reason = refusedCrowded
	}
	in.refused[reason].Inc()
	in.log.Debug("connection refused", zap.Stringer("address", conn.RemoteAddr()), zap.String("reason", reason), zap.Error(err))
}

func (in *intake) wasCrowdedOut(s *stranger) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return s.crowdedOut
}

// enter counts s as pending until the returned function is called.
func (in *intake) enter(s *stranger) (leave func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pending.Len() >= maxPending {
		oldest := in.pending.Remove(in.pending.Front()).(*stranger)
		oldest.crowdedOut = true
		oldest.Close()
	}
	element := in.pending.PushBack(s)
	return func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.pending.Remove(element) // does nothing the second time
	}
}
