// Package discoverytest holds the contract of discovery.Source as tests, for
// every implementation to pass.
package discoverytest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/psock-runtime/psock-runtime/pkg/discovery"
)

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// Fixture is one source under test.
type Fixture struct {
	Source discovery.Source
	// Initial is what the source has to find first, sorted.
	Initial []string
	// Port is the port of the addresses that Set makes.
	Port uint16
	// Set changes what there is to find to these hosts, in this order and with
	// these repetitions, where the origin of the data has such. It is nil for a
	// source that never changes.
	Set func(hosts ...netip.Addr)
	// Settle returns when the source has noticed what Set did last.
	Settle func()
}

// Run runs the contract's tests; start makes a fixture for each.
func Run(t *testing.T, start func(t *testing.T) Fixture) {
	for name, test := range map[string]func(*testing.T, Fixture){
		"FirstUpdate":          firstUpdate,
		"RunsAgain":            runsAgain,
		"EndsWithItsContext":   endsWithItsContext,
		"EndsUnread":           endsUnread,
		"ReceiverOwnsItsSlice": receiverOwnsItsSlice,
		"Changes":              changes,
		"NoDuplicates":         noDuplicates,
		"SlowReceiver":         slowReceiver,
		"ThereAndBackAgain":    thereAndBackAgain,
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			// The fixture's own goroutines are ignored, and end after this
			// check (cleanups run last in, first out): a resolver that was
			// given up in a lookup only ends when it gets its answer.
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
			test(t, f)
		})
	}
}

// run is a source that runs until stop, or the test's end.
type run struct {
	t       *testing.T
	updates chan []string
	cancel  context.CancelFunc
	ended   chan error
}

func begin(t *testing.T, s discovery.Source) *run {
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{t: t, updates: make(chan []string), cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- s.Run(ctx, r.updates) }()
	t.Cleanup(cancel)
	return r
}

// stop ends the run and checks how it ended.
func (r *run) stop() {
	r.t.Helper()
	r.cancel()
	select {
	case err := <-r.ended:
		if !errors.Is(err, context.Canceled) {
			r.t.Errorf("Run returned %v, want the context's error", err)
		}
	case <-time.After(patience):
		r.t.Fatal("Run goes on after its context ended")
	}
	select {
	case set, open := <-r.updates:
		r.t.Errorf("after the end the channel gives %v, open %v; want nothing", set, open)
	default:
	}
}

func (r *run) next() []string {
	r.t.Helper()
	select {
	case set, open := <-r.updates:
		if !open {
			r.t.Fatal("the channel is closed")
		}
		return set
	case err := <-r.ended:
		r.t.Fatalf("Run returned early: %v", err)
	case <-time.After(patience):
		r.t.Fatal("no update")
	}
	return nil
}

func (r *run) want(set []string) {
	r.t.Helper()
	if got := r.next(); !slices.Equal(got, set) {
		r.t.Fatalf("got %q, want %q", got, set)
	}
}

// host is the nth host that Set is called with.
func host(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

func (f Fixture) addrs(hosts ...netip.Addr) []string {
	var out []string
	for _, h := range hosts {
		out = append(out, netip.AddrPortFrom(h, f.Port).String())
	}
	return out
}

func firstUpdate(t *testing.T, f Fixture) {
	if f.Source.String() == "" {
		t.Error("the source has no name")
	}
	r := begin(t, f.Source)
	r.want(f.Initial)
	r.stop()
}

func runsAgain(t *testing.T, f Fixture) {
	for range 2 {
		r := begin(t, f.Source)
		r.want(f.Initial)
		r.stop()
	}
}

func endsWithItsContext(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Source.Run(ctx, make(chan []string)); !errors.Is(err, context.Canceled) {
		t.Errorf("Run with an ended context returned %v", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := f.Source.Run(ctx, make(chan []string)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run past its deadline returned %v", err)
	}
}

func endsUnread(t *testing.T, f Fixture) {
	r := begin(t, f.Source)
	if f.Set != nil {
		f.Set(host(1))
		f.Settle()
	}
	r.stop()
}

func receiverOwnsItsSlice(t *testing.T, f Fixture) {
	r := begin(t, f.Source)
	got := r.next()
	for i := range got {
		got[i] = "overwritten"
	}
	r.stop()
	r = begin(t, f.Source)
	r.want(f.Initial)
	r.stop()
}

func changes(t *testing.T, f Fixture) {
	if f.Set == nil {
		return
	}
	r := begin(t, f.Source)
	r.want(f.Initial)
	for _, hosts := range [][]netip.Addr{{host(1)}, {host(1), host(2)}, {}, {host(2)}, {}, {host(1), host(2), host(3)}} {
		f.Set(hosts...)
		r.want(f.addrs(hosts...))
	}
	r.stop()
}

// noDuplicates has a receiver that takes everything at once, so that a set sent
// twice is seen.
func noDuplicates(t *testing.T, f Fixture) {
	if f.Set == nil {
		return
	}
	f.Set(host(2), host(1))
	r := begin(t, f.Source)
	end := f.addrs(host(9))
	all := make(chan [][]string, 1)
	go func() {
		var got [][]string
		for len(got) == 0 || !slices.Equal(got[len(got)-1], end) {
			select {
			case set := <-r.updates:
				got = append(got, set)
			case <-time.After(patience):
				all <- got
				return
			}
		}
		all <- got
	}()
	f.Settle()
	f.Set(host(1), host(2), host(1), host(2))
	f.Settle()
	f.Set(host(9))
	if got := <-all; len(got) != 2 || !slices.Equal(got[0], f.addrs(host(1), host(2))) || !slices.Equal(got[1], end) {
		t.Errorf("got %q, want two updates", got)
	}
	r.stop()
}

func slowReceiver(t *testing.T, f Fixture) {
	if f.Set == nil {
		return
	}
	r := begin(t, f.Source)
	for n := range byte(5) {
		f.Set(host(n))
		f.Settle()
	}
	r.want(f.addrs(host(4)))
	f.Set(host(5))
	r.want(f.addrs(host(5)))
	r.stop()
}

// thereAndBackAgain: a change that is undone before the receiver looks is none.
func thereAndBackAgain(t *testing.T, f Fixture) {
	if f.Set == nil {
		return
	}
	f.Set(host(1))
	r := begin(t, f.Source)
	r.want(f.addrs(host(1)))
	f.Set(host(2))
	f.Settle()
	f.Set(host(1))
	f.Settle()
	f.Set(host(3))
	f.Settle()
	r.want(f.addrs(host(3)))
	f.Set(host(4))
	f.Settle()
	f.Set(host(3))
	f.Settle()
	select {
	case set := <-r.updates:
		t.Errorf("got %q again", set)
	default:
	}
	r.stop()
}
