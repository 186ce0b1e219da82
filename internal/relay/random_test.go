package relay_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

var seeds = flag.Uint64("seeds", 150, "random programs of TestRandom")

// TestRandom has R run programs of futures on workers that die, drain and are given away
// at any byte. R reads what one worker that lives for ever would have answered; only where
// a worker has died in the middle of a message may the stream end there.
func TestRandom(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { newTrial(t, seed).run() })
	}
}

// trial is a session whose workers are mortal.
type trial struct {
	*session
	t       *testing.T
	running sync.WaitGroup
	over    chan struct{}

	mu     sync.Mutex
	random *rand.Rand
	lives  int  // how many workers may die in the present future
	lost   bool // one has died or drained
	cut    bool // one has died in the middle of a message
	moves  bool // workers are given away between futures
}

func newTrial(t *testing.T, seed uint64) *trial {
	x := &trial{t: t, over: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 1))}
	shared := x.likely(2)
	x.moves = x.likely(2)
	x.session = newSession(t, relay.Recovery{Acquire: x.acquire, Shared: shared, Together: shared && x.likely(2)}, someRoom)
	x.begin(shared)
	return x
}

// begin starts the session, and ends it with its workers.
func (x *trial) begin(shared bool) {
	x.session.run(x.t, func() (string, error) {
		defer x.running.Wait()
		defer close(x.over)
		if shared {
			return x.Run(nil, nil)
		}
		return x.Run(x.hire(relay.SetUp{}), nil)
	})
}

// n is a random number below a bound, likely happens once in so many times.
func (x *trial) n(bound int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.random.IntN(bound)
}

func (x *trial) likely(once int) bool { return x.n(once) == 0 }

// acquire gives a fresh worker, or one that another node has set up alike.
func (x *trial) acquire(_ context.Context, need relay.Need) (relay.Worker, error) {
	var setUp relay.SetUp
	if len(need.SetUps) > 0 && x.likely(2) {
		setUp = need.SetUps[x.n(len(need.SetUps))]
	}
	return x.hire(setUp), nil
}

// mortal is a worker that computes until it dies.
type mortal struct {
	*worker
	x *trial

	mu       sync.Mutex
	recalled chan struct{}
}

func (x *trial) hire(setUp relay.SetUp) *mortal {
	m := &mortal{worker: newWorker("mortal"), x: x, recalled: make(chan struct{})}
	m.setUp = setUp
	x.running.Go(m.live)
	return m
}

func (m *mortal) Recalled() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recalled
}

func (m *mortal) isRecalled() bool {
	select {
	case <-m.recalled:
		return true
	default:
		return false
	}
}

func (m *mortal) Offer(relay.SetUp, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.x.moves && !m.isRecalled() && m.x.likely(2) {
		close(m.recalled)
	}
}

func (m *mortal) Keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isRecalled() {
		m.recalled = make(chan struct{})
	}
}

func (m *mortal) Yield() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.isRecalled()
}

// live answers calls until the worker dies, or is ended.
func (m *mortal) live() {
	select {
	case <-m.bound:
	case <-m.released:
		return
	case <-m.x.over:
		return
	}
	var r machine
	for {
		m.worker.mu.Lock()
		news, fresh := m.news, bytes.Clone(m.got.Bytes()[r.taken:])
		m.worker.mu.Unlock()
		if len(fresh) > 0 {
			if m.x.likely(12) && m.dies(false) { // with a part of a call, or without having begun it
				return
			}
			if !m.say(r.take(fresh)) {
				return
			}
			continue
		}
		select {
		case <-news:
		case <-m.ended:
			m.sink.Ended("its session ended", nil)
			return
		case <-m.aborted:
			m.sink.Ended("aborted", nil)
			return
		}
	}
}

// say answers, in pieces, unless the worker dies meanwhile.
func (m *mortal) say(messages [][]byte) (lives bool) {
	whole := bytes.Join(messages, nil)
	ends := map[int]bool{0: true}
	for at, i := 0, 0; i < len(messages); i++ {
		at += len(messages[i])
		ends[at] = true
	}
	for at := 0; at < len(whole); {
		n := min(1+m.x.n(1+m.x.n(len(whole))), len(whole)-at)
		m.sink.Data(bytes.Clone(whole[at : at+n]))
		at += n
		switch m.x.n(16) {
		case 0:
			if m.dies(!ends[at]) {
				return false
			}
		case 1:
			if m.x.mayDrain() {
				m.sink.Drain()
			}
		}
	}
	return true
}

// mayDrain reports whether a future is under way that may lose its worker.
func (x *trial) mayDrain() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lost = x.lost || x.lives > 0
	return x.lives > 0
}

// dies ends the worker, if it may.
func (m *mortal) dies(midway bool) bool {
	x := m.x
	x.mu.Lock()
	defer x.mu.Unlock() // until it is dead: another future has other lives
	if x.lives == 0 {
		return false
	}
	x.lives--
	x.lost = true
	x.cut = x.cut || midway
	if x.random.IntN(2) == 0 {
		m.sink.EOF()
	}
	m.sink.Ended("killed", nil)
	return true
}

// machine is R as far as a call's answer tells what was done before.
type machine struct {
	scanner psock.Scanner
	call    []byte // as far as it is there
	taken   int
	globals []string // since the last reset
}

// take takes what R is sent, and returns the messages that it answers with.
func (r *machine) take(p []byte) (messages [][]byte) {
	r.taken += len(p)
	for len(p) > 0 {
		n, done := r.scanner.Scan(p)
		r.call = append(r.call, p[:n]...)
		p = p[n:]
		if done {
			messages = append(messages, r.answer(string(r.call[len(call("EXEC", nil)):]))...)
			r.call = nil
		}
	}
	return messages
}

func (r *machine) answer(what string) [][]byte {
	text, _, _ := strings.Cut(what, "\x00") // what follows has a size, and no meaning
	switch {
	case bytes.Contains(reset(), []byte(what)):
		r.globals = nil
		return [][]byte{confirmed()}
	case strings.HasPrefix(text, "global"):
		r.globals = append(r.globals, text)
	case strings.HasPrefix(text, "compute"):
		state := strings.Join(r.globals, " ")
		return [][]byte{condition(text + " with " + state), condition(strings.Repeat(text, 200)), result()}
	}
	return [][]byte{value(text)}
}

// run is the R session's program.
func (x *trial) run() {
	var r machine
	x.do(&r, introduction())
	if x.likely(2) {
		x.do(&r, x.call("set up"))
	}
	for i := range 1 + x.n(4) {
		x.mu.Lock()
		x.lives = 2
		x.mu.Unlock()
		calls := [][]byte{reset()}
		for k := range x.n(4) {
			calls = append(calls, x.call(fmt.Sprintf("global %d.%d", i, k)))
		}
		calls = append(calls, x.call(fmt.Sprintf("compute %d", i)))
		for len(calls) > 0 {
			n := 1
			if x.likely(8) {
				n = min(2, len(calls)) // R was interrupted, and calls again
			}
			if !x.do(&r, calls[:n]...) {
				return
			}
			calls = calls[n:]
		}
		if x.survived() && x.likely(4) { // else that is an R error
			x.do(&r, x.call("foreign"))
		}
	}
}

// survived ends the time in which workers die, and reports whether none has.
func (x *trial) survived() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lives = 0
	return !x.lost
}

// call is one that may be large.
func (x *trial) call(what string) []byte {
	size := []int{0, 100, 20_000, 100_000}[x.n(4)]
	return call("EXEC", append([]byte(what+"\x00"), make([]byte, size)...))
}

// do makes calls and reads their answers. It reports whether the session can go on.
func (x *trial) do(r *machine, calls ...[]byte) bool {
	x.t.Helper()
	sent := bytes.Join(calls, nil)
	want := bytes.Join(r.take(sent), nil)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for len(sent) > 0 {
			n := min(1+x.n(1+x.n(len(sent))), len(sent))
			if _, err := x.r.Write(sent[:n]); err != nil {
				return // do reads why
			}
			sent = sent[n:]
		}
	}()
	if err := x.r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		x.t.Fatal(err)
	}
	got := make([]byte, len(want))
	n, err := io.ReadFull(x.r, got)
	if bytes.Equal(got, want) {
		<-written
		return true
	}
	x.r.Close()
	<-written
	x.mu.Lock()
	defer x.mu.Unlock()
	if timeout := net.Error(nil); !x.cut || !bytes.HasPrefix(want, got[:n]) || errors.As(err, &timeout) && timeout.Timeout() {
		x.t.Fatalf("R reads %d of %d bytes (%v), cut: %v\n%q\nwant\n%q\n%+v", n, len(want), err, x.cut, got[:n], want, x.Activity())
	}
	return false
}
