package broker

import (
	"context"
	"errors"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/relay"
)

// another reserves a worker for a session that has none, or none any more. A session
// that has lost its own in a call computes already: it comes before others. One that has
// lost nothing waits its turn for as long as what there is is in use, as R does for a
// worker that is busy.
func (n *node) another(ctx context.Context, need relay.Need) (relay.Worker, error) {
	b := n.broker
	if refusal := b.standing(n.cluster); refusal != "" && !need.Lost {
		return nil, errors.New(refusal)
	}
	want := pool.Want{Tenant: n.cluster.tenant, Group: n.cluster.group(), Urgent: need.Lost, SetUps: need.SetUps, Total: b.size(n.cluster)}
	if n.cluster.name == "" {
		// Two sessions that announce nothing, and make their clusters at the same time on one
		// port, are one cluster for all that is known: its nodes share no R process.
		want.SetUps = nil
	}
	b.poke()
	began := time.Now()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go n.hope(waiting, need.Lost, cancel)
	w, err := n.reserve(waiting, want)
	if err == nil {
		b.mu.Lock()
		n.latest = w
		b.mu.Unlock()
		return bindable{w}, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	unmet := b.unmet(n.cluster, time.Since(began))
	if !need.Lost {
		b.config.Metrics.unmet.Inc()
		b.refuseRest(n.cluster, unmet)
	}
	return nil, errors.New(unmet)
}

// scarce reports whether anybody waits for a worker such as the node's.
func (n *node) scarce() bool {
	b := n.broker
	b.mu.Lock()
	latest := n.latest
	b.mu.Unlock()
	return latest != nil && b.config.Pool.Scarce(latest.Group())
}

// hope calls giveUp when for the whole of the demand timeout no worker was being started,
// and, unless the session has lost its own, none that could be its next was in use; it
// returns when ctx ends.
func (n *node) hope(ctx context.Context, lost bool, giveUp func()) {
	b, group := n.broker, n.cluster.group()
	last := time.Now()
	look := time.NewTicker(min(time.Second, b.config.DemandTimeout/4))
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			if _, starting := b.scaling(group); starting || !lost && b.inUse(group, n.cluster) {
				last = now
			}
			if now.Sub(last) >= b.config.DemandTimeout {
				giveUp()
				return
			}
		}
	}
}

// inUse reports whether a worker of the group is in a call, or about to be, and so will
// be free some day. One whose answer R does not read, and nothing can take, will not: R may
// wait for the very node that waits for it. Nor will one that
// a node of c keeps, for another node of c, which is who asks; nil is somebody else.
func (b *Broker) inUse(group string, c *cluster) bool {
	if b.config.Pool.Turning(group) {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for n := range b.nodes() {
		if n.latest == nil || !pool.InGroup(n.latest.Group(), group) || n.session == nil || n.session.Worker() == "" {
			continue
		}
		if activity := n.session.Activity(); activity.Busy && !activity.Unread && (n.cluster != c || !n.session.Keeps()) {
			return true
		}
	}
	return false
}
