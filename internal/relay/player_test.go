package relay_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// player is a worker that acts like R and to its plan. What the relay is told comes from
// one goroutine, as it does in a pool.
type player struct {
	plan
	name  string
	setUp relay.SetUp
	trial *trial
	state state

	sink relay.Sink
	news chan struct{} // something below has changed

	mu       sync.Mutex
	inbox    []byte
	over     bool // it has ended: what it is sent fails
	ending   bool // End
	aborted  bool // Abort
	yielded  bool
	offered  bool
	recall   chan struct{}
	recalled bool // recall is closed

	// The goroutine's own.
	random   *rand.Rand
	scanner  psock.Scanner
	arriving []byte // a call
	outbox   []byte
	calls    int
	received int
	answered int
	lastByte int // it dies when it has answered that much; -1 is never
	drained  bool
}

func (p *player) Name() string { return p.name }

func (p *player) Bind(sink relay.Sink) error {
	if p.gone {
		return fmt.Errorf("worker %s has ended", p.name)
	}
	p.sink = sink
	p.trial.players.Go(p.play)
	return nil
}

func (p *player) Release() {}

func (p *player) SetUp() relay.SetUp { return p.setUp }

func (p *player) Recalled() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.recall
}

func (p *player) Offer(relay.SetUp, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offered = true
	if p.plan.recalled && !p.recalled {
		p.recalled = true
		close(p.recall)
	}
}

func (p *player) Keep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offered = false
	if !p.recalled { // as if somebody had come at this very moment
		close(p.recall)
	}
	p.recalled, p.recall = false, make(chan struct{})
}

func (p *player) Yield() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.yielded = p.recalled
	return p.yielded
}

func (p *player) Busy(time.Duration) {}

func (p *player) SendData(frame []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || p.aborted {
		return fmt.Errorf("worker %s has ended", p.name)
	}
	if p.offered {
		p.trial.fault("worker %s is sent something while it is offered", p.name)
	}
	p.inbox = append(p.inbox, frame[relay.Headroom:]...)
	p.wake()
	return nil
}

func (p *player) End()   { p.set(&p.ending) }
func (p *player) Abort() { p.set(&p.aborted) }

func (p *player) set(what *bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*what = true
	p.wake()
}

func (p *player) wake() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// play does what the worker does until it ends.
func (p *player) play() {
	cause := p.perform()
	p.mu.Lock()
	p.over = true
	quiet := p.yielded && p.quits
	counts := !p.drained && !p.ending
	p.mu.Unlock()
	if quiet {
		return
	}
	if counts {
		p.trial.dies(p.name)
	}
	if p.closes {
		p.sink.EOF()
	}
	var explain func() string
	if p.explains {
		explain = func() string { return "why: " + cause }
	}
	p.sink.Ended(cause, explain)
}

func (p *player) perform() (cause string) {
	for range p.news {
		p.mu.Lock()
		sent, ending, aborted := p.inbox, p.ending, p.aborted
		p.inbox = nil
		p.mu.Unlock()
		if aborted {
			return "aborted"
		}
		dies := p.take(sent)
		if dies && p.random.IntN(2) == 0 || p.speak() || dies {
			return "killed"
		}
		if ending {
			return "its session ended"
		}
	}
	return ""
}

// take has the worker take what it was sent; its answers are in outbox. It reports
// whether it dies of that.
func (p *player) take(sent []byte) (dies bool) {
	if p.diesAt > 0 && p.received+len(sent) >= p.diesAt {
		dies = true
		sent = sent[:max(0, p.diesAt-p.received)]
	}
	p.received += len(sent)
	for len(sent) > 0 {
		n, done := p.scanner.Scan(sent)
		p.arriving = append(p.arriving, sent[:n]...)
		sent = sent[n:]
		if done {
			p.run(p.arriving)
			p.arriving = nil
		}
	}
	if p.drainsAt > 0 && p.received >= p.drainsAt {
		p.drain()
	}
	return dies
}

func (p *player) run(arrived []byte) {
	c := p.trial.byCall[string(arrived)]
	if c == nil {
		if p.scanner.Message().Kind != psock.KindDone {
			p.trial.fault("worker %s was sent a call that R has not made: %.80q", p.name, arrived)
		}
		return
	}
	p.trial.ran[c.id].Add(1)
	p.calls++
	next, answers := p.state.after(c)
	if p.calls == p.differs && c.kind != failing { // which fails everywhere
		next, answers = p.state, [][]byte{psock.AppendError(nil, differs, false)}
	}
	p.state = next
	if p.lastByte < 0 && p.random.IntN(100) < p.danger {
		whole := bytes.Join(answers[:p.random.IntN(len(answers)+1)], nil)
		p.lastByte = p.answered + len(p.outbox) + len(whole)
		if p.random.IntN(4) == 0 {
			p.lastByte += p.random.IntN(30)
		}
	}
	p.outbox = append(p.outbox, bytes.Join(answers, nil)...)
}

// speak sends the answers in pieces. It reports whether the worker dies of that.
func (p *player) speak() (dies bool) {
	for len(p.outbox) > 0 && p.answered != p.lastByte {
		n := 1 + p.random.IntN(len(p.outbox))
		if p.random.IntN(3) == 0 {
			n = min(n, 1+p.random.IntN(30))
		}
		if p.lastByte >= 0 {
			n = min(n, p.lastByte-p.answered)
		}
		p.sink.Data(bytes.Clone(p.outbox[:n]))
		p.outbox, p.answered = p.outbox[n:], p.answered+n
		if p.drainsSending > 0 && p.answered >= p.drainsSending {
			p.drain()
		}
	}
	return p.answered == p.lastByte
}

func (p *player) drain() {
	if !p.drained {
		p.drained = true
		p.trial.drained.Add(1)
		p.sink.Drain()
	}
}
