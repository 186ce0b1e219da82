package rendezvous

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"go.uber.org/zap"
)

// AgentCheck says how an agent is compared with the worker pods that are watched.
type AgentCheck string

// The checks, each of which has those after it.
const (
	// CheckAddress: the agent connects from its pod's address, too. Kubernetes' network
	// model has pods reach each other without NAT; some networks and meshes differ.
	CheckAddress AgentCheck = "address"
	// CheckName: the agent's name and group are those of a pod.
	CheckName AgentCheck = "name"
	CheckNone AgentCheck = "none"
)

// podNewsPatience is how long an agent waits for news of its pod before it is refused, and
// dials again. A watch is behind by milliseconds, kubelet's status of a pod by up to a
// second or so, and the agent gives up after link.HandshakeLimit.
const podNewsPatience = 2 * time.Second

// worklist is what a guard needs of the watch of the worker pods.
type worklist interface {
	// Current is another channel after each time without an answer of the API server.
	Current() <-chan struct{}
	Verify(context.Context, pods.Claim) error
}

// guard decides who may be an agent. While the API server does not answer, it lets in by
// their certificates alone those of whose pods nothing is known, and looks at them again when
// it does.
type guard struct {
	log       *zap.Logger
	refusals  *refusals
	name      string   // in the certificates of agents
	pods      worklist // nil: there is no watch
	check     AgentCheck
	began     time.Time
	postponed chan struct{} // has an element when unchecked has a new one

	mu        sync.Mutex
	unchecked map[*link.Conn]pods.Claim
}

func newGuard(config Config, watch worklist, r *refusals) *guard {
	g := &guard{
		log: config.Log, refusals: r, name: cmp.Or(config.WorkerName, mtls.WorkerName), check: config.AgentCheck,
		began: time.Now(), postponed: make(chan struct{}, 1), unchecked: make(map[*link.Conn]pods.Claim),
	}
	if g.check != CheckNone {
		g.pods = watch
	}
	return g
}

// admit says why the agent must not take part: a *refusal, or ctx has ended.
func (g *guard) admit(ctx context.Context, conn *link.Conn, hello link.HelloMessage) error {
	// Without TLS there is none: who may dial then, the intake has checked.
	if cert := conn.PeerCertificate(); cert != nil {
		if err := mtls.CheckWorker(cert, g.name); err != nil {
			return &refusal{refusedName, hello.Agent, err}
		}
	}
	if g.pods == nil {
		return nil
	}
	claim := pods.Claim{Name: hello.Agent, Group: hello.Group}
	if g.check != CheckName {
		claim.From = source(conn.RemoteAddr())
	}
	for {
		current := g.current(ctx)
		err := g.verify(ctx, claim, current)
		switch {
		case !errors.Is(err, pods.ErrNotKnown):
			return err
		case g.postpone(conn, claim):
			return nil
		case current:
			return err
		}
		// The API server has answered meanwhile.
	}
}

// current reports whether the API server answers, and waits for that for a moment after the
// start. One that does not answer must not keep all workers from all sessions, nor those that
// it has not told of.
func (g *guard) current(ctx context.Context) bool {
	return g.answers(ctx, time.Until(g.began.Add(podNewsPatience)))
}

// answers reports whether the API server answers, and waits for that for so long.
func (g *guard) answers(ctx context.Context, patience time.Duration) bool {
	answered := g.pods.Current()
	if isClosed(answered) {
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-answered:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// verify says why the claim is wrong: a *refusal, or ctx has ended. It waits for news of the
// pod if there can be any.
func (g *guard) verify(ctx context.Context, claim pods.Claim, current bool) error {
	var patience time.Duration
	if current {
		patience = podNewsPatience
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.pods.Verify(limited, claim); ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		return &refusal{refusedPod, claim.Name, err}
	}
	return nil
}

// postpone has run look at conn's agent when the API server answers, unless it does now: run
// may have looked by then.
func (g *guard) postpone(conn *link.Conn, claim pods.Claim) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if isClosed(g.pods.Current()) {
		return false
	}
	g.unchecked[conn] = claim
	g.wake()
	return true
}

func (g *guard) wake() {
	select {
	case g.postponed <- struct{}{}:
	default:
	}
}

// forget is called when conn has ended, or been looked at. It reports whether it is the first.
func (g *guard) forget(conn *link.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, known := g.unchecked[conn]
	delete(g.unchecked, conn)
	return known
}

// agents is how many are unchecked.
func (g *guard) agents() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.unchecked)
}

// run looks, after each time without an answer of the API server, at those that came then.
func (g *guard) run(ctx context.Context) error {
	if g.pods == nil {
		return nil
	}
	for {
		select {
		case <-g.postponed:
		case <-ctx.Done():
			return ctx.Err()
		}
		// Each watch ends after some minutes, and the next one begins: that is no outage.
		if !g.answers(ctx, podNewsPatience) {
			n := g.agents()
			if n == 0 {
				continue // they have left
			}
			if ctx.Err() == nil {
				g.log.Warn("the API server does not answer: agents of pods that are not known are let in by certificate alone, and checked when it answers", zap.Int("agents", n))
			}
		}
		select {
		case <-g.pods.Current():
		case <-ctx.Done():
			return ctx.Err()
		}
		g.recheck(ctx)
	}
}

// recheck closes the connections of those that are in no pod.
func (g *guard) recheck(ctx context.Context) {
	g.mu.Lock()
	claims := maps.Clone(g.unchecked)
	g.mu.Unlock()
	var checks sync.WaitGroup
	defer checks.Wait()
	for conn, claim := range claims {
		checks.Go(func() {
			watch := g.pods.Current()
			current := isClosed(watch)
			err := g.verify(ctx, claim, true)
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, pods.ErrNotKnown) && !(current && g.pods.Current() == watch) {
				g.wake() // the API server has failed again, its news may be yet to come: conn stays among them
				return
			}
			if g.forget(conn) && err != nil {
				g.refusals.note(conn.RemoteAddr(), refusedPod, err)
				conn.Close()
			}
		})
	}
}

// source is the address that a connection comes from, the zero Addr for one that has none.
func source(address net.Addr) netip.Addr {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}
