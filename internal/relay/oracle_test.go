package relay_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// oracle is what one worker that nothing befalls would answer, and knows what
// docs/recovery.md says of those that something befalls.
type oracle struct {
	trial    *trial
	scanner  psock.Scanner
	arriving []byte
	end      error // of R's stream

	sent     int
	answered int
	read     int // conditions of the call under way
	state    state
	early    []*step // the calls that set the worker up
	once     bool
	results  []finished

	began  bool // there was a reset
	future bool // one is under way
	done   bool // the last one is
	others bool // after which a call was made that is none's
	// vague: a call was sent before the one before it was answered. Which of them a worker
	// has had when it is lost, and whether a reset among them is one, R cannot know.
	vague   bool
	deaths  int  // before the future
	loses   bool // the node's state is lost, until the next reset
	forever bool // also after that
	unsure  bool // it may be
	// own: calls that are none of a future's may have set something on the worker that is not
	// repeated on another. strange: one since the last reset may have, if no future ends before the
	// next.
	own, strange bool
}

func (o *oracle) sends(c *step) {
	x := o.trial
	alone := o.sent == o.answered
	o.sent++
	o.pins(c)
	switch {
	case !alone:
		o.vague = true
	case c.kind == erasing || c.kind == posing:
		o.began, o.future, o.done, o.others, o.vague = true, true, false, false, false
		o.deaths = x.known()
	}
	if c.early && !o.began {
		o.early = append(o.early, c)
		o.prepare()
	}
}

// pins notes whether the call may have its node keep its worker.
func (o *oracle) pins(c *step) {
	switch {
	case o.sent > o.answered+1 || c.kind == posing:
		o.own = true
	case c.kind == erasing || c.kind == validating:
		if o.future && o.strange { // that was no future
			o.own, o.future, o.done = true, false, true
		}
		o.strange = false
	case c.kind.keeps():
	case o.future:
		o.strange = o.strange || c.kind != computing
	default:
		o.own = o.own || o.began || !o.trial.config.Together
	}
}

// prepare has workers that are set up as the node's is, or as it is about to be.
func (o *oracle) prepare() {
	o.trial.mu.Lock()
	defer o.trial.mu.Unlock()
	var made state
	digest := sha256.New()
	for _, c := range o.early {
		made, _ = made.after(c)
		if !c.kind.keeps() {
			digest.Write(c.call)
		}
		o.trial.setUps[relay.SetUp(digest.Sum(nil))] = made
	}
}

// reads is told of a message that R reads.
func (o *oracle) reads(got []byte, m psock.Message) {
	x := o.trial
	if o.answered >= o.sent {
		x.fault("R reads an answer to no call: %s", said(got))
		return
	}
	c := x.steps[o.answered]
	after, want := o.state.after(c)
	if !m.Final {
		if o.read >= c.conditions || !bytes.Equal(got, want[o.read]) {
			x.fault("call %d: R reads condition %d as %s, want %s", c.id, o.read, said(got), said(want[min(o.read, len(want)-1)]))
		}
		o.read++
		return
	}
	read := o.read
	o.answered++
	o.read = 0
	if o.lost(c, got) {
		return
	}
	if bytes.Equal(got, psock.AppendError(nil, differs, false)) {
		o.unsure = true
		o.own = true // its future did not end as one does
		return
	}
	if !bytes.Equal(got, want[c.conditions]) || read < c.conditions {
		x.fault("call %d: R reads %s after %d conditions, want %s after %d", c.id, said(got), read, said(want[c.conditions]), c.conditions)
	}
	if !o.unsure && c.kind != validating && (o.forever || o.loses && c.kind != erasing) {
		x.fault("call %d: R reads an answer of a node that has lost its state", c.id)
	}
	switch {
	case c.kind == erasing:
		o.loses = false
	case c.kind == posing:
		o.unsure = true
	case c.kind == computing:
		o.future, o.done = false, true
		o.ran(c)
	case o.done && c.kind.keeps():
	case o.done:
		o.others = true
		if n := x.ran[c.id].Load(); n > 1 && !o.vague {
			x.fault("call %d, which is no future's, was made %d times", c.id, n)
		}
	}
	o.state = after
}

// ran looks at how often a future ran that R has the result of.
func (o *oracle) ran(c *step) {
	x := o.trial
	n := x.ran[c.id].Load()
	if n > int64(x.config.Attempts) && x.drained.Load() == 0 || n > 1 && x.once[0] {
		x.fault("call %d ran %d times", c.id, n)
	}
	if !o.vague {
		o.results = append(o.results, finished{c, n})
	}
}

// plain reports whether the node's worker is as a fresh one, but for namespaces.
func (o *oracle) plain() bool {
	return !o.began && !slices.ContainsFunc(o.early, func(c *step) bool { return !c.kind.keeps() })
}

// lost reports whether got is an error in the place of c's answer.
func (o *oracle) lost(c *step, got []byte) bool {
	x := o.trial
	x.mu.Lock()
	var reasons []relay.LossReason
	for text, of := range x.losses {
		if bytes.Equal(got, psock.AppendError(nil, text, false)) {
			reasons = slices.Clone(of)
		}
	}
	x.mu.Unlock()
	if reasons == nil {
		return false
	}
	if !slices.ContainsFunc(reasons, func(r relay.LossReason) bool { return o.allows(r, c) }) {
		x.fault("call %d: R reads an error for no reason that holds: %v", c.id, reasons)
	}
	refused := !slices.Contains(reasons, relay.NoReset) && !slices.Contains(reasons, relay.Attempts)
	switch {
	case slices.Contains(reasons, relay.StateLost):
		question := (c.kind == introducing || c.kind == validating) && !o.future
		if !question || o.vague { // a question leaves that to the next call
			o.renew()
		}
		return true
	case o.vague:
		o.unsure = true
	case c.kind.keeps() && !o.future && (c.kind != loading || o.plain() || o.done && !o.others): // nothing is missed of it
	case o.done && !o.others && refused: // no worker has had it, and none has anything that is missed
	case o.began:
		o.loses = true
	case !slices.Contains(reasons, relay.NoWorker):
		o.forever = true
	}
	if i := slices.Index(o.early, c); i >= 0 {
		o.early = slices.Delete(o.early, i, i+1)
		o.prepare()
	}
	return true
}

// allows reports whether a call may be lost for that reason.
func (o *oracle) allows(reason relay.LossReason, c *step) bool {
	x := o.trial
	switch reason {
	case relay.StateLost:
		return o.own || o.vague
	case relay.NoReset:
		return !o.future || o.vague
	case relay.Attempts:
		return o.once || x.config.Attempts == 1 || x.deaths()-o.deaths >= x.config.Attempts
	case relay.NotKept:
		return x.limits != someRoom || o.loses || o.forever || o.unsure || c.kind == posing || x.differing() || size(o.early) > 256<<10
	case relay.NoWorker:
		return x.refused.Load() > 0
	}
	return false
}

// renew: R has been told that the node's state is lost. It is as a new one.
func (o *oracle) renew() {
	o.state, o.early = nil, nil
	o.own, o.strange, o.loses, o.others = false, false, false, false
	o.future, o.done = false, true
}

func size(calls []*step) (n int) {
	for _, c := range calls {
		n += len(c.call)
	}
	return n
}

func (x *trial) differing() bool {
	return slices.ContainsFunc(x.plans, func(p plan) bool { return p.differs > 0 })
}

// finished is a future that had run so often when R had its result.
type finished struct {
	call *step
	ran  int64
}

// ended looks at how R's stream has ended, once the session is over.
func (o *oracle) ended() {
	x, err := o.trial, o.end
	for _, f := range o.results {
		if n := x.ran[f.call.id].Load(); n > f.ran {
			x.fault("call %d ran %d times, %d of them after R had its result", f.call.id, n, n-f.ran)
		}
	}
	if err == nil || o.sent == len(x.steps) && o.answered == o.sent && len(o.arriving) == 0 {
		return
	}
	if len(o.arriving) > 0 && o.answered < o.sent {
		_, answers := o.state.after(x.steps[o.answered])
		if want := answers[o.read]; !bytes.HasPrefix(want, o.arriving) && !bytes.HasPrefix(psock.AppendError(nil, differs, false), o.arriving) {
			x.fault("R's stream ends with %s, want part of %s", said(o.arriving), said(want))
		}
		return
	}
	// Or one was sent in part while it turned out that the one before it is lost.
	if o.sent-o.answered < 2 || len(x.losses) == 0 {
		x.fault("R's stream ends (%v) after %d answers to %d calls", err, o.answered, o.sent)
	}
}

// said is what can be read of a message.
func said(p []byte) string {
	return strings.Join(strings.FieldsFunc(string(p), func(c rune) bool { return c < ' ' || c > '~' }), " ")
}
