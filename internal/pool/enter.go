package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/assign"
)

// ErrTaken: the name of an agent is another's, or it has more slots than it has said.
var ErrTaken = errors.New("the agent's name is taken")

// takeoverLook is how often an agent's predecessor is looked at while it is waited for: who
// reads its connection may be kept from that by a session that does not read.
const takeoverLook = 20 * time.Millisecond

// enter adds s to the pool. All connections under an agent's name are of one process, which
// only that process can know by its random instance: another one comes in when those of
// the first have ended. That takes a moment when it has ended itself, and until they are
// found silent when the network has lost it.
func (p *Pool) enter(ctx context.Context, s *slot) error {
	limit := time.NewTimer(p.config.TakeoverLimit)
	defer limit.Stop()
	look := time.NewTicker(takeoverLook)
	defer look.Stop()
	var probed *slot
	for {
		rival, err := p.add(s)
		if rival == nil {
			return err
		}
		if rival.conn.Check() != nil {
			// Its last words may be a result that its session still reads.
			p.mu.Lock()
			rival.forget(assign.Replaced{Slot: &rival.core})
			p.mu.Unlock()
			continue
		}
		if rival != probed {
			rival.conn.Probe()
			probed = rival
		}
		select {
		case <-rival.lost:
		case <-look.C:
		case <-limit.C:
			return fmt.Errorf("%w: another agent called %q is connected from %s; give each agent a --name of its own, and wait for the end of one that was restarted",
				ErrTaken, s.hello.Agent, rival.address)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add adds s, unless a slot of another process has the agent's name, which it returns.
func (p *Pool) add(s *slot) (rival *slot, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key{s.hello.Agent, s.hello.Slot}
	for _, named := range p.core.SlotsOf(s.hello.Agent) {
		if other := p.served[named]; other.hello.Instance != s.hello.Instance {
			return other, nil
		}
	}
	if old := p.slots[k]; old != nil {
		// The agent knows that its old connection is dead before we do.
		old.forget(assign.Replaced{Slot: &old.core})
		old.conn.Close()
	}
	for _, named := range p.core.SlotsOf(s.hello.Agent) {
		if first := p.served[named]; s.contradicts(first) {
			return nil, fmt.Errorf("%w: agent %q has said that it has %d slots of the group %q, and now %d of %q", ErrTaken,
				s.hello.Agent, first.hello.Slots, first.hello.Group, s.hello.Slots, s.hello.Group)
		}
	}
	if len(p.slots) >= p.config.MaxWorkers {
		return nil, fmt.Errorf("the pool is full: %d workers, the limit of --max-workers", len(p.slots))
	}
	p.slots[k] = s
	p.served[&s.core] = s
	p.apply(assign.Joined{Slot: &s.core})
	return nil, nil
}

// contradicts reports whether the agent has introduced another slot in other words.
func (s *slot) contradicts(other *slot) bool {
	return s.hello.Slots != other.hello.Slots || s.hello.Group != other.hello.Group
}
