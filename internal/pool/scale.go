package pool

import "github.com/psock-runtime/psock-runtime/internal/assign"

// What whoever starts and ends workers asks. The core has the answers.

// Agents names the connected agents of a group, in no order.
func (p *Pool) Agents(group string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.core.Agents(group)
}

// Idle names the agents of a group that no session uses, least useful first: see
// assign.IdleAgents.
func (p *Pool) Idle(group string) []string {
	p.mu.Lock()
	idle := p.core.IdleAgents(group)
	p.mu.Unlock()
	return idle.Names()
}

// Cordon takes an agent out of the pool: none of its workers is handed out until
// Uncordon. It fails, and takes nothing out, when a session uses one of them. One that a
// session has no use for is asked back, and Cordon succeeds when it has come. An agent
// that is not there is cordoned when it comes.
func (p *Pool) Cordon(agent string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apply(assign.Cordon{Agent: agent})
	return p.core.Cordoned(agent)
}

// Uncordon puts the agent back into the pool, if it is there, and forgets its name.
func (p *Pool) Uncordon(agent string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apply(assign.Uncordon{Agent: agent})
}

// Wanted counts the workers that tenants want, by group: see assign.Core.Wanted.
func (p *Pool) Wanted() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.core.Wanted()
}

// Slots counts the slots of a group, "" for all.
func (p *Pool) Slots(group string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.core.Slots(group)
}

// Scarce reports whether anybody waits for a worker such as those of the group, and none is
// on its way.
func (p *Pool) Scarce(group string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.core.Scarce(group)
}

// Turning reports whether a worker of the group is between two uses: its R ends or starts,
// for somebody who waits.
func (p *Pool) Turning(group string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.core.Turning(group)
}
