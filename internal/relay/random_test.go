package relay_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/relay"
)

var seeds = flag.Uint64("seeds", 400, "programs of TestRecovery")

// R runs a program on workers that are lost, drained and recalled at any byte: it reads
// what one worker that nothing befalls would have answered, or an error where
// docs/recovery.md has one. A seed is repeated with -run 'TestRecovery/^7$', as far as the
// scheduler does the same again.
func TestRecovery(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			newTrial(t, seed).run()
		})
	}
}

// differs is the error of a worker that fails where another would not.
const differs = "this worker is not like others"

// trial is one program and what R reads.
type trial struct {
	t       *testing.T
	seed    uint64
	random  *rand.Rand // of R's side
	steps   []*step
	plans   []plan
	refuses []bool // whether a worker is refused, in the order in which they are asked for
	limits  journal.Limits
	once    []bool // what is said before a step, false is nothing
	config  relay.Recovery

	session *relay.Session
	budget  *journal.Budget
	r       *net.TCPConn
	written int64 // by R
	players sync.WaitGroup
	byCall  map[string]*step
	ran     []atomic.Int64
	drained atomic.Int64
	refused atomic.Int64

	mu     sync.Mutex
	used   int // of plans
	dead   map[string]bool
	asked  int
	setUps map[relay.SetUp]state
	losses map[string][]relay.LossReason // by the text that R is told
	faults []string

	oracle oracle
}

func newTrial(t *testing.T, seed uint64) *trial {
	random := rand.New(rand.NewPCG(seed, 0))
	x := &trial{t: t, seed: seed, random: random, steps: program(random), byCall: map[string]*step{}, losses: map[string][]relay.LossReason{}, dead: map[string]bool{}}
	for range 12 {
		x.plans = append(x.plans, newPlan(random, x.steps))
	}
	if random.IntN(6) == 0 {
		x.plans = nil // nothing befalls the first worker
	}
	if random.IntN(6) == 0 { // else it might be set up by a node on which all went well
		for i := range x.plans {
			x.plans[i].settled, x.plans[i].differs = false, random.IntN(6)
		}
	}
	x.limits = someRoom
	if random.IntN(6) == 0 {
		x.limits = journal.Limits{Each: 8 << 10, Memory: int64(random.IntN(3)) * 8 << 10, Disk: int64(random.IntN(3)) * 10 << 10}
	}
	refusing := random.IntN(5) == 0
	for range 40 {
		x.refuses = append(x.refuses, refusing && random.IntN(3) == 0)
	}
	saying := random.IntN(6) == 0
	for _, c := range x.steps {
		x.byCall[string(c.call)] = c
		x.once = append(x.once, saying && random.IntN(3) == 0)
	}
	x.ran = make([]atomic.Int64, len(x.steps))
	x.config.Shared = random.IntN(3) == 0
	x.config.Together = x.config.Shared && random.IntN(2) == 0
	x.config.Attempts = []int{1, 2, 3, 3, 6, 12}[random.IntN(6)]
	x.setUps = map[relay.SetUp]state{sha256.Sum256(nil): nil}
	return x
}

func (x *trial) fault(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.faults = append(x.faults, fmt.Sprintf(format, args...))
}

// dies notes that a worker has died.
func (x *trial) dies(worker string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dead[worker] = true
}

// deaths counts the workers that have died.
func (x *trial) deaths() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.dead)
}

// known counts those without the session's present worker: of its death the session does not know
// yet, and may take it for one in the call that comes next.
func (x *trial) known() int {
	present := x.session.Worker()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.dead[present] {
		return len(x.dead) - 1
	}
	return len(x.dead)
}

// next is the next worker; nothing befalls those for which there is no plan.
func (x *trial) next(setUps []relay.SetUp) *player {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := &player{trial: x, name: fmt.Sprintf("worker-%d", x.used), lastByte: -1, news: make(chan struct{}, 1), recall: make(chan struct{})}
	if x.used < len(x.plans) {
		p.plan = x.plans[x.used]
	}
	x.used++
	p.random = rand.New(rand.NewPCG(p.seed, 1))
	for _, setUp := range setUps {
		if made, ok := x.setUps[setUp]; ok && p.settled && (p.setUp == relay.SetUp{} || p.random.IntN(2) == 0) {
			p.setUp, p.state = setUp, made
		}
	}
	return p
}

func (x *trial) acquire(ctx context.Context, need relay.Need) (relay.Worker, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	x.mu.Lock()
	refused := x.asked < len(x.refuses) && x.refuses[x.asked]
	x.asked++
	x.mu.Unlock()
	if refused {
		x.refused.Add(1)
		return nil, errors.New("0 of 1 workers are ready")
	}
	return x.next(need.SetUps), nil
}

// The observer's side of a trial.

func (x *trial) Bytes(relay.Direction, int)        {}
func (x *trial) Call(time.Duration, bool)          {}
func (x *trial) Opaque(reason error)               { x.fault("opaque: %v", reason) }
func (x *trial) Rerun(string, string, string, int) {}
func (x *trial) Lost(reason relay.LossReason, text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.losses[text] = append(x.losses[text], reason)
}

func (x *trial) run() {
	client, r := connect(x.t)
	x.r = r
	defer r.Close()
	x.budget = journal.NewBudget(x.t.TempDir(), x.limits)
	x.config.Acquire, x.config.Budget, x.config.Scarce = x.acquire, x.budget, func() bool { return false }
	x.session = relay.New(client, x, x.config, nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var first relay.Worker
		if !x.config.Shared {
			p := x.next(nil)
			p.gone = false
			first = p
		}
		if _, err := x.session.Run(first, nil); err != nil {
			x.fault("Run: %v", err)
		}
	}()
	x.play()
	r.Close()
	receive(x.t, ended, "Run to return")
	x.players.Wait()
	x.oracle.ended()
	if memory, disk := x.budget.Used(); memory != 0 || disk != 0 {
		x.fault("%d bytes of journal in memory and %d on disk are left", memory, disk)
	}
	if len(x.faults) > 0 {
		x.t.Errorf("seed %d: %s\n%s", x.seed, strings.Join(x.faults, "\n"), x)
	}
}

// String tells the trial.
func (x *trial) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "shared %v, together %v, attempts %d, limits %+v, refusals %v\n", x.config.Shared, x.config.Together, x.config.Attempts, x.limits, x.refused.Load())
	names := []string{"introducing", "loading", "validating", "setting", "failing", "erasing", "posing", "computing"}
	for i, c := range x.steps {
		fmt.Fprintf(&b, "%2d %s of %d bytes, ahead %v, once %v, ran %d times\n", i, names[c.kind], len(c.call), c.ahead, x.once[i], x.ran[i].Load())
	}
	for i, p := range x.plans[:min(len(x.plans), x.used)] {
		fmt.Fprintf(&b, "worker-%d %+v\n", i, p)
	}
	for text, reasons := range x.losses {
		fmt.Fprintf(&b, "%v: %s\n", reasons, text)
	}
	return b.String()
}

// play is R: it makes its calls, reads the answers, and closes the connection.
func (x *trial) play() {
	x.oracle.trial = x
	if err := x.r.SetDeadline(time.Now().Add(patience)); err != nil {
		x.t.Fatal(err)
	}
	for i, c := range x.steps {
		if x.once[i] {
			x.session.Once(true)
			x.oracle.once = true
		}
		x.oracle.sends(c)
		for rest := c.call; len(rest) > 0; {
			n := 1 + x.random.IntN(len(rest))
			if _, err := x.r.Write(rest[:n]); err != nil {
				x.read(len(x.steps)) // to the end
				return
			}
			rest = rest[n:]
			x.written += int64(n)
			if x.random.IntN(2) == 0 {
				x.letRead()
			}
		}
		if i+1 < len(x.steps) && x.steps[i+1].ahead {
			continue
		}
		if !x.read(i + 1) {
			return
		}
	}
	if x.random.IntN(2) == 0 {
		if _, err := x.r.Write(call("DONE", nil)); err != nil {
			return
		}
	}
	x.r.CloseWrite()
	if x.read(len(x.steps) + 1) {
		x.fault("R reads more answers than it made calls")
	}
}

// letRead gives the relay time to read what R has written, if it does not wait itself.
func (x *trial) letRead() {
	for range 1000 {
		if x.session.Activity().UpBytes == x.written {
			return
		}
		runtime.Gosched()
	}
}

// read reads until n calls have been answered, and reports whether that happens.
func (x *trial) read(n int) bool {
	o := &x.oracle
	buffer := make([]byte, 1+x.random.IntN(4000))
	for o.answered < n {
		m, err := x.r.Read(buffer)
		for p := buffer[:m]; len(p) > 0; {
			k, done := o.scanner.Scan(p)
			o.arriving = append(o.arriving, p[:k]...)
			p = p[k:]
			if done {
				o.reads(o.arriving, o.scanner.Message())
				o.arriving = nil
			}
		}
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				x.fault("R waits in vain for the answer of call %d", o.answered)
			} else {
				o.end = err
			}
			return false
		}
	}
	return true
}
