package rendezvous

import (
	"cmp"
	"context"
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
	Listed() <-chan struct{}
	Verify(context.Context, pods.Claim) error
}

// guard decides who may be an agent. It keeps those that it has let in before the worker
// pods were known, and looks at them again when they are.
type guard struct {
	log      *zap.Logger
	refusals *refusals
	name     string   // in the certificates of agents
	pods     worklist // nil: there is no watch
	check    AgentCheck
	began    time.Time

	mu        sync.Mutex
	unchecked map[*link.Conn]pods.Claim
}

func newGuard(config Config, watch worklist, r *refusals) *guard {
	g := &guard{
		log: config.Log, refusals: r, name: cmp.Or(config.WorkerName, mtls.WorkerName), check: config.AgentCheck,
		began: time.Now(), unchecked: make(map[*link.Conn]pods.Claim),
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
	if !g.known(ctx) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if g.postpone(conn, claim) {
			return nil
		}
	}
	return g.verify(ctx, claim)
}

// postpone has run look at conn's agent, unless the pods are known now: run may have looked
// by then.
func (g *guard) postpone(conn *link.Conn, claim pods.Claim) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.pods.Listed():
		return false
	default:
		g.unchecked[conn] = claim
		return true
	}
}

func (g *guard) verify(ctx context.Context, claim pods.Claim) error {
	limited, cancel := context.WithTimeout(ctx, podNewsPatience)
	defer cancel()
	if err := g.pods.Verify(limited, claim); ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		return &refusal{refusedPod, claim.Name, err}
	}
	return nil
}

// known waits until the worker pods are, for a moment after the start. An API server that
// does not answer must not keep all workers from all sessions: after that moment their
// certificates alone count, until it does.
func (g *guard) known(ctx context.Context) bool {
	timer := time.NewTimer(time.Until(g.began.Add(podNewsPatience)))
	defer timer.Stop()
	select {
	case <-g.pods.Listed():
		return true
	default:
	}
	select {
	case <-g.pods.Listed():
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// forget is called when conn has ended.
func (g *guard) forget(conn *link.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.unchecked, conn)
}

// run looks at those that came before the worker pods were known, when they are, and closes
// the connections of those that are in none.
func (g *guard) run(ctx context.Context) error {
	if g.pods == nil {
		return nil
	}
	if !g.known(ctx) && ctx.Err() == nil {
		g.log.Warn("the worker pods are not known yet, agents are let in by their certificates alone until they are: see why they cannot be watched")
	}
	select {
	case <-g.pods.Listed():
	case <-ctx.Done():
		return ctx.Err()
	}
	var checks sync.WaitGroup
	defer checks.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn, claim := range g.unchecked {
		checks.Go(func() {
			if err := g.verify(ctx, claim); err != nil && ctx.Err() == nil {
				g.refusals.note(conn.RemoteAddr(), refusedPod, err)
				conn.Close()
			}
		})
	}
	clear(g.unchecked)
	return nil
}

// source is the address that a connection comes from, the zero Addr for one that has none.
func source(address net.Addr) netip.Addr {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}
