package link

import (
	"context"
	"sync"
	"time"
)

const (
	// turns is how many times the Pacer gets up in each interval, at most.
	turns = 50
	// turnSize is how many connections a turn has before the next one is made use of: some
	// two milliseconds' work, so that a session's call waits no longer.
	turnSize = 256
)

// Pacer sends the heartbeats of many connections, a few hundred at a time, where a timer
// of each would wake the process for each.
type Pacer struct {
	interval time.Duration
	filled   chan struct{} // has an element after an empty turn was joined

	mu    sync.Mutex
	turns [turns][]*Conn
}

// NewPacer makes a Pacer that sends each connection a heartbeat in every interval.
func NewPacer(interval time.Duration) *Pacer {
	return &Pacer{interval: interval, filled: make(chan struct{}, 1)}
}

// Run sends until ctx ends.
func (p *Pacer) Run(ctx context.Context) {
	began, turn := time.Now(), p.interval/turns
	timer := time.NewTimer(0)
	defer timer.Stop()
	var batch []*Conn
	for next := 0; ; {
		// A machine that was asleep, or too busy, does not make up for whole rounds.
		next = max(next, int(time.Since(began)/turn)-turns)
		number, some := p.after(next)
		timer.Reset(time.Until(began.Add(time.Duration(number) * turn)))
		if !some {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-p.filled:
			continue
		case <-timer.C:
		}
		batch = p.take(number, batch[:0])
		for _, c := range batch {
			c.sayHeartbeatNow()
		}
		clear(batch)
		next = number + 1
	}
}

// after is the number of the first turn from next on that is not empty.
func (p *Pacer) after(next int) (number int, some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for number := next; number < next+turns; number++ {
		if len(p.turns[number%turns]) > 0 {
			return number, true
		}
	}
	return next, false
}

func (p *Pacer) take(number int, batch []*Conn) []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(batch, p.turns[number%turns]...)
}

// join gives c a seat: in the fullest turn that has room, so that few connections mean
// few turns, else in the emptiest.
func (p *Pacer) join(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.isClosed() {
		return // and has left
	}
	best := 0
	for i := range p.turns {
		size, most := len(p.turns[i]), len(p.turns[best])
		switch {
		case most >= turnSize && size < most, size < turnSize && size > most:
			best = i
		}
	}
	c.turn, c.seat = best, len(p.turns[best])
	p.turns[best] = append(p.turns[best], c)
	if c.seat == 0 {
		select {
		case p.filled <- struct{}{}:
		default:
		}
	}
}

// leave frees the seat of c, if it has one.
func (p *Pacer) leave(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	turn := p.turns[c.turn]
	if c.seat >= len(turn) || turn[c.seat] != c {
		return
	}
	last := len(turn) - 1
	turn[c.seat] = turn[last]
	turn[c.seat].seat = c.seat
	turn[last] = nil
	p.turns[c.turn] = turn[:last]
}
