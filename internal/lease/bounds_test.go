package lease

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Leases are bounded, as is what is kept of those that are over, and ports are not
// handed out twice.
func TestLeasesAreBounded(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		ports := make(map[uint16]bool)
		var last Snapshot
		for range MaxLeases {
			last = b.open(Request{Workers: 1})
			ports[last.Port] = true
		}
		if len(ports) != MaxLeases {
			t.Errorf("%d ports for %d leases", len(ports), MaxLeases)
		}
		_, err := b.Open(uid, Request{Workers: 1})
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "there are 100 leases") || b.refusals(Crowded) != 1 {
			t.Errorf("one more: %v", err)
		}
		if err := b.Close(uid, last.ID); err != nil {
			t.Fatal(err)
		}
		// Nine hundred more, one at a time, none of which is given back.
		refused := 0
		for range 900 {
			if _, err := b.Open(uid, Request{Workers: 1}); err != nil {
				refused++
			}
			pass(100 * time.Millisecond)
		}
		if n := len(b.List()); refused == 0 || n > MaxLeases+mostPast {
			t.Errorf("%d refused, %d kept", refused, n)
		}
		pass(renewal + pace + rememberFor + pace)
		if n := len(b.List()); n != 0 {
			t.Errorf("%d leases are left", n)
		}
		if got := testutil.ToFloat64(b.config.Metrics.refused[Crowded]); got != float64(refused+1) {
			t.Errorf("%g refusals are counted, want %d", got, refused+1)
		}
	})
}

// A thousand leases that are given back at once need no more than their ports' rest.
func TestManyLeases(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		seen := make(map[uint16]time.Time)
		b.workers.add("a")
		for range 1000 {
			s, err := b.Open(uid, Request{Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			if since := time.Since(seen[s.Port]); since < portRest {
				t.Fatalf("port %d is handed out again after %s", s.Port, since)
			}
			if err := b.Close(uid, s.ID); err != nil {
				t.Fatal(err)
			}
			seen[s.Port] = time.Now()
			pass(10 * time.Millisecond)
		}
		if n := len(b.List()); n != 0 || b.free() != 1 {
			t.Errorf("%d leases are left, %d workers free", n, b.free())
		}
	})
}

// Ports that are in use are not handed out, and one that has been taken before the
// lease is ready is replaced.
func TestPortsInUseAreNotHandedOut(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		var all []uint16
		for port := uint16(11000); port < 11150; port++ {
			all = append(all, port)
		}
		b.occupy(append(all[:7:7], all[8:]...)...)
		s := b.open(Request{Workers: 1})
		if s.Port != 11007 {
			t.Errorf("got port %d, want 11007", s.Port)
		}
		if _, err := b.Open(uid, Request{Workers: 1}); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "no port of 11000-11149 is free") {
			t.Errorf("one more: %v", err)
		}
		b.occupy(11007)
		b.workers.add("a")
		synctest.Wait()
		moved := b.look(s.ID)
		if moved.State != Ready || moved.Port == 11007 {
			t.Errorf("got %+v", moved)
		}
		if _, ok := b.Lease(11007); ok {
			t.Error("the old port is leased")
		}
		if terms, ok := b.Lease(moved.Port); !ok || terms.Port != moved.Port {
			t.Errorf("the new port has %+v, %v", terms, ok)
		}
		b.occupy()
		none := b.open(Request{Workers: 1})
		b.occupy(all...)
		b.workers.add("b")
		b.want(none.ID, Refused, 0, "its port is in use, and no other is free")
		b.blind = errors.New("no netlink")
		if _, err := b.Open(uid, Request{Workers: 1}); err == nil || !strings.Contains(err.Error(), "no netlink") {
			t.Errorf("blind: %v", err)
		}
	})
}

// However many workers a lease is for, few callers wait at once.
func TestLargeLease(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		s := b.open(Request{Workers: MaxWorkers})
		for i := range MaxWorkers {
			b.workers.add(fmt.Sprint(i))
		}
		b.want(s.ID, Ready, MaxWorkers, "connect within 1m0s")
		if most := b.workers.most; most > acquiring {
			t.Errorf("%d waited at once, want at most %d", most, acquiring)
		}
		if err := b.Close(uid, s.ID); err != nil || b.free() != MaxWorkers {
			t.Errorf("%v, %d free", err, b.free())
		}
	})
}

// Sessions, workers and clusters come and go at once; in the end nothing is held.
func TestStress(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		for i := range 10 {
			b.workers.add(fmt.Sprint(i))
		}
		var sessions sync.WaitGroup
		for range 20 {
			sessions.Go(func() {
				for range 20 {
					s, err := b.Open(uid, Request{Workers: 1 + rand.IntN(3)})
					for errors.Is(err, ErrBusy) { // every port is at rest
						<-time.After(portRest)
						s, err = b.Open(uid, Request{Workers: 1})
					}
					if err != nil {
						t.Error(err)
						return
					}
					for s.State == Waiting && rand.IntN(10) > 0 {
						if s, err = b.Wait(t.Context(), uid, s.ID, s.Version, time.Duration(rand.IntN(3))*time.Second); err != nil {
							t.Error(err)
							return
						}
					}
					var taken []Worker
					for s.State == Ready && len(taken) < s.Workers {
						w, ok := b.Take(s.Port)
						if !ok {
							break
						}
						b.Connected(s.Port)
						taken = append(taken, w)
					}
					for _, w := range taken {
						w.Release()
					}
					b.Ended(s.Port)
					if err := b.Close(uid, s.ID); err != nil {
						t.Error(err)
					}
				}
			})
		}
		sessions.Wait()
		if held := b.Held(); len(held) != 0 || b.free() != 10 {
			t.Errorf("held %v, %d free", held, b.free())
		}
	})
}
