package relay_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// The model of TestRecovery: what R sends, and what a worker of R answers.

// kind is what a call is for.
type kind int

const (
	introducing kind = iota // asks who the worker is
	loading                 // loads a namespace
	validating              // asks whether the node works
	setting                 // changes the worker's state
	failing                 // does so, and then fails
	erasing                 // future's reset
	posing                  // looks like a reset, and sets something
	computing               // a future's last call
)

// step is one call of R's program.
type step struct {
	kind       kind
	early      bool // comes before the first reset
	stays      bool // is none of a future's: what it sets is there for all that follow
	ahead      bool // is sent before the one before it is answered, as after an interrupt
	id         int
	call       []byte
	conditions int // sent ahead of the answer
}

// keeps reports whether the call leaves nothing in the worker that anybody sees.
func (k kind) keeps() bool { return k == introducing || k == loading || k == validating }

// state is what calls have made of a worker: those of before the program's first reset and
// between two futures stay, and what they say is the same however often they are made.
type state []*step

// after is the state after a call, and answers what the worker sends: any conditions,
// and the answer. It depends on all that the worker has in its state.
func (s state) after(c *step) (next state, answers [][]byte) {
	if !c.kind.keeps() && c.kind != erasing && !slices.Contains(s, c) {
		s = append(slices.Clone(s), c)
	}
	hash := sha256.New()
	for _, c := range s {
		fmt.Fprintln(hash, c.id)
	}
	text := fmt.Sprintf("%d %x", c.id, hash.Sum(nil)[:6])
	for i := range c.conditions {
		answers = append(answers, condition(fmt.Sprint(text, " condition ", i)))
	}
	switch c.kind {
	case introducing:
		return s, append(answers, value("me"))
	case loading:
		return s, append(answers, value("loaded"))
	case validating:
		return s, append(answers, valid())
	case failing:
		return s, append(answers, psock.AppendError(nil, text, false))
	case erasing:
		return s.early(), append(answers, confirmed())
	case computing:
		return s.early(), append(answers, resultOf(text))
	}
	return s, append(answers, value(text))
}

func (s state) early() state {
	return slices.DeleteFunc(slices.Clone(s), func(c *step) bool { return !c.early && !c.stays })
}

// program is what R sends in a trial: a node's introduction and what sets it up, and then
// futures, and calls that are none's.
func program(random *rand.Rand) (steps []*step) {
	early := true
	add := func(k kind) {
		c := &step{kind: k, early: early, ahead: random.IntN(12) == 0, id: len(steps)}
		text := map[kind]string{
			erasing: "future-grmall", posing: "not future-grmall",
			computing: "compute", setting: "set", failing: "fail",
		}[k]
		size := random.IntN(50)
		switch random.IntN(50) {
		case 0, 1, 2:
			size = 10<<10 + random.IntN(30<<10) // about what is taken without a worker
		case 3:
			size = random.IntN(400 << 10)
		}
		if k != setting && k != failing && k != computing {
			size = 0
		}
		c.call = call("EXEC", append(fmt.Appendf(nil, "%s %d;", text, c.id), bytes.Repeat([]byte("."), size)...))
		if is, ok := (map[kind]facts.Call{introducing: facts.Introduction, loading: facts.Load, validating: facts.Validation})[k]; ok {
			c.call = told(is, fmt.Appendf(nil, " %d;", c.id)...)
		}
		if k == computing {
			c.conditions = random.IntN(4)
		}
		steps = append(steps, c)
	}
	some := func() kind {
		return []kind{setting, setting, setting, setting, setting, failing, introducing, validating, loading}[random.IntN(9)]
	}
	poses := 0 // of 40 calls
	if random.IntN(8) == 0 {
		poses = 8
	}
	if random.IntN(3) > 0 {
		add(introducing)
	}
	if random.IntN(2) > 0 {
		add(loading)
	}
	for range max(0, random.IntN(5)-2) {
		add(some())
	}
	between := false // after a future, and before the next
	for range 1 + random.IntN(4) {
		switch n := random.IntN(40); {
		case n < poses:
			add(posing)
			between = false
		case n < 12:
			add(some())
			steps[len(steps)-1].stays = between
		default:
			if random.IntN(2) > 0 {
				add(validating)
			}
			first := early
			early = false
			add(erasing)
			if first { // behind another call it is not seen to be one, and its future is taken for setting up
				steps[len(steps)-1].ahead = false
			}
			for range random.IntN(4) {
				add(some())
			}
			between = random.IntN(10) > 0
			if between {
				add(computing)
			}
		}
	}
	return steps
}

// plan is what befalls a worker. Bytes are counted from when it is bound; 0 is never.
type plan struct {
	seed          uint64
	gone          bool // has ended before it is bound
	settled       bool // was set up by another node, if one will do
	drainsAt      int  // its agent drains when it has been sent that much
	drainsSending int  // when it has answered that much
	diesAt        int
	danger        int  // of 100 calls, how many it is lost in
	closes        bool // closes its connection before it ends
	explains      bool
	differs       int  // fails where another would not, at the call of this number
	recalled      bool // is recalled when it is offered
	quits         bool // says nothing more when it has been given to somebody else
}

func newPlan(random *rand.Rand, steps []*step) plan {
	sent, answered := 0, 0
	for _, c := range steps {
		sent += len(c.call)
		answered += 150
	}
	// Half of what befalls it does so within a few bytes of a call's end, or of an answer's.
	at := func(chance, most int) int {
		if random.IntN(chance) > 0 {
			return 0
		}
		if random.IntN(2) == 0 {
			return 1 + random.IntN(most)
		}
		n := random.IntN(2)
		for _, c := range steps[:random.IntN(len(steps)+1)] {
			n += len(c.call)
		}
		return n
	}
	p := plan{seed: random.Uint64(), closes: random.IntN(2) == 0, explains: random.IntN(4) == 0}
	p.gone = random.IntN(20) == 0
	p.settled = random.IntN(3) == 0
	p.drainsAt, p.drainsSending, p.diesAt = at(8, sent), at(8, answered), at(4, sent)
	p.danger = []int{0, 10, 30, 60}[random.IntN(4)]
	p.recalled = random.IntN(2) == 0
	p.quits = random.IntN(2) == 0
	return p
}
