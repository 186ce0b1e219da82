package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// From the request to the cluster's end.
func TestLeaseFromRequestToEnd(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.workers.add("a", "b")
		s := b.open(Request{Workers: 3, Group: "gpu", Label: "report"})
		if s.ID == "" || s.Port < 11000 || s.Port > 11149 || s.Group != "gpu" || s.Label != "report" || !s.Expires.Equal(time.Now().Add(renewal)) {
			t.Errorf("got %+v", s)
		}
		b.want(s.ID, Waiting, 2, "2 of 3 workers are ready")
		if _, ok := b.Lease(s.Port); ok {
			t.Error("a lease that is not ready may be connected to")
		}
		if _, ok := b.Take(s.Port); ok {
			t.Error("a lease that is not ready gives workers out")
		}
		b.workers.add("c")
		b.want(s.ID, Ready, 3, "connect within 1m0s")
		terms, ok := b.Lease(s.Port)
		if !ok || terms.ID != s.ID || terms.Group != "gpu" || terms.UID != uid || terms.Tenant == nil || terms.Workers != 3 || terms.Share {
			t.Errorf("the terms are %+v, %v", terms, ok)
		}
		if held := b.Held(); len(held) != 3 {
			t.Errorf("held are %v", held)
		}
		var taken []string
		for range 3 {
			w, ok := b.Take(s.Port)
			if !ok {
				t.Fatal("too few to take")
			}
			b.Connected(s.Port)
			taken = append(taken, w.Name())
		}
		slices.Sort(taken)
		if _, ok := b.Take(s.Port); ok || fmt.Sprint(taken) != "[a b c]" {
			t.Errorf("took %v, and another: %v", taken, ok)
		}
		pass(time.Hour) // a cluster lasts as long as it lasts
		b.want(s.ID, Connected, 3, "its cluster is connected")
		b.Ended(s.Port)
		b.want(s.ID, Ended, 3, "its cluster has ended")
		if _, ok := b.Lease(s.Port); ok {
			t.Error("an ended lease may be connected to")
		}
		pass(rememberFor + pace)
		if b.look(s.ID).ID != "" {
			t.Error("it is not forgotten")
		}
	})
}

// Without a number it is as many as there are; with turns one worker is enough.
func TestSizes(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		usual := b.open(Request{})
		shared := b.open(Request{Workers: 40, Share: true})
		if usual.Workers != 4 || shared.Workers != 40 {
			t.Errorf("%d and %d workers, want 4 and 40", usual.Workers, shared.Workers)
		}
		b.want(shared.ID, Waiting, 0, "0 of 1 workers are ready")
		b.workers.add("a", "b", "c", "d", "e")
		b.want(usual.ID, Ready, 4, "connect within 1m0s")
		b.want(shared.ID, Ready, 1, "connect within 1m0s")
		wholes := 0
		for _, want := range b.workers.asked {
			if want.Whole {
				wholes++
			}
		}
		if wholes != 4 || len(b.workers.asked) != 5 || len(b.workers.complete) != 2 {
			t.Errorf("asked for %+v, complete %d", b.workers.asked, len(b.workers.complete))
		}
	})
}

// A question with a limit is answered with the next news, or when the limit is over.
func TestWaitEndsWithNews(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		s := b.open(Request{Workers: 2})
		ask := func(ctx context.Context, version int, limit time.Duration) (answer chan Snapshot) {
			answer = make(chan Snapshot, 1)
			go func() {
				s, _ := b.Wait(ctx, uid, s.ID, version, limit)
				answer <- s
			}()
			synctest.Wait()
			return answer
		}
		began := time.Now()
		if got := <-ask(t.Context(), -1, 20*time.Second); got.Ready != 0 || time.Since(began) != 20*time.Second {
			t.Errorf("after %s: %+v", time.Since(began), got)
		}
		if got := <-ask(t.Context(), -1, time.Hour); got.Ready != 0 || time.Since(began) != 20*time.Second+MaxWait {
			t.Errorf("after %s: %+v", time.Since(began), got)
		}
		news := ask(t.Context(), -1, MaxWait)
		b.workers.add("a")
		got := <-news
		if got.Ready != 1 {
			t.Errorf("got %+v", got)
		}
		// What has happened since the version that the session knows is news as well.
		if got := <-ask(t.Context(), got.Version-1, MaxWait); got.Ready != 1 {
			t.Errorf("got %+v", got)
		}
		news = ask(t.Context(), got.Version, MaxWait)
		b.limits.set("2 of 6 pods run", true)
		if got := <-news; got.Message != "1 of 2 workers are ready; 2 of 6 pods run" {
			t.Errorf("got %+v", got)
		}
		// Who waits keeps the lease; who has hung up does not renew it.
		ctx, hangUp := context.WithCancel(t.Context())
		renewed := b.look(s.ID).Expires
		news = ask(ctx, -1, MaxWait)
		hangUp()
		<-news
		if got := b.look(s.ID).Expires; !got.Equal(renewed.Add(time.Since(renewed.Add(-renewal)))) {
			t.Errorf("it expires at %s, was %s", got, renewed)
		}
		b.workers.add("b")
		synctest.Wait() // all workers are there before the lease is ready
		for range 2 {   // who is to connect need not wait
			if got := <-ask(t.Context(), -1, MaxWait); got.State != Ready {
				t.Errorf("got %+v", got)
			}
		}
	})
}

// A session that is gone keeps workers for a bounded time only.
func TestLeaseOfALostSessionExpires(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.workers.add("a", "b", "c")
		gone := b.open(Request{Workers: 1})
		waits := b.open(Request{Workers: 2})
		unused := b.open(Request{Workers: 0})
		if err := b.Close(uid, unused.ID); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			pass(renewal - pace)
			b.renew(waits.ID)
		}
		b.want(gone.ID, Ended, 0, "nobody asked for it for 30s")
		b.want(waits.ID, Ready, 2, "connect within 1m0s")
		pass(3 * pace)
		b.want(waits.ID, Ended, 0, "nobody connected to it within 1m0s")
		if n := b.free(); n != 3 {
			t.Errorf("%d workers are free, want 3", n)
		}
		if err := b.Close(uid, waits.ID); err != nil || b.look(waits.ID).ID != "" {
			t.Errorf("closed: %v", err)
		}
	})
}

// What does not become ready is refused, but not while workers are on their way.
func TestRefused(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.workers.add("a")
		s := b.open(Request{Workers: 2})
		wait := func(d time.Duration) {
			for until := time.Now().Add(d); time.Now().Before(until); {
				pass(10 * time.Second)
				b.renew(s.ID)
			}
		}
		b.limits.set("pod x: ContainerCreating", true)
		wait(2 * demandTimeout)
		b.want(s.ID, Waiting, 1, "1 of 2 workers are ready; pod x: ContainerCreating")
		b.limits.set("", false)
		wait(demandTimeout)
		b.want(s.ID, Waiting, 1, "1 of 2 workers are ready")
		wait(10 * time.Second)
		b.want(s.ID, Refused, 0, "1 of 2 workers are ready; waited 6m0s; start more")
		if n := b.free(); n != 1 || b.refusals(NoWorkers) != 1 {
			t.Errorf("%d workers are free, %g leases refused; want 1 and 1", n, b.refusals(NoWorkers))
		}
		if got, err := b.Wait(t.Context(), uid, s.ID, -1, MaxWait); err != nil || got.State != Refused {
			t.Errorf("the session hears %+v, %v", got, err)
		}
	})
}

// A lease whose nodes take turns waits for what others use, and another one does not.
func TestTurns(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.limits.inUse = true
		whole, shared := b.open(Request{Workers: 2}), b.open(Request{Workers: 40, Share: true})
		for range demandTimeout/renewal + 1 {
			pass(renewal - pace)
			b.renew(whole.ID)
			b.renew(shared.ID)
		}
		if got := b.look(whole.ID).State; got != Refused {
			t.Errorf("the one for workers of its own is %s", got)
		}
		b.want(shared.ID, Waiting, 0, "0 of 1 workers are ready")
		b.workers.add("a")
		b.want(shared.ID, Ready, 1, "connect within 1m0s")
	})
}

// A worker that dies before it is taken is replaced, in every state.
func TestReplacement(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.workers.add("a")
		s := b.open(Request{Workers: 2})
		b.workers.get("a").die()
		b.want(s.ID, Waiting, 0, "0 of 2 workers are ready")
		b.workers.add("b", "c")
		b.want(s.ID, Ready, 2, "connect within 1m0s")
		b.workers.get("b").die()
		w, ok := b.Take(s.Port)
		if !ok || w.Name() != "c" {
			t.Fatalf("took %v, %v; want c", w, ok)
		}
		b.Connected(s.Port)
		b.workers.add("d")
		b.want(s.ID, Connected, 2, "its cluster is connected")
		if w, ok := b.Take(s.Port); !ok || w.Name() != "d" {
			t.Errorf("took %v, %v; want d", w, ok)
		}
	})
}

// A node that comes when the lease has nothing for it waits for a worker itself, as do
// those that follow: the lease waits for none any more, which would stay reserved.
func TestNothingToTake(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.workers.add("a", "b", "c")
		s := b.open(Request{Workers: 3})
		if _, ok := b.Take(s.Port); !ok {
			t.Fatal("nothing to take of three")
		}
		b.Connected(s.Port)
		for _, held := range b.Held() {
			b.workers.get(held).die()
		}
		if w, ok := b.Take(s.Port); ok { // nobody has noticed yet
			t.Errorf("took %s, which has died", w.Name())
		}
		b.workers.add("d", "e")
		if free := b.free(); free != 2 || len(b.Held()) != 0 {
			t.Errorf("the lease holds %v, %d are free for its nodes", b.Held(), free)
		}
		b.want(s.ID, Connected, 1, "its cluster is connected")
		b.Ended(s.Port)
		b.want(s.ID, Ended, 1, "its cluster has ended")
	})
}

// A lease that waits gives back what an older cluster waits for; one that is ready does
// not.
func TestRecall(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.workers.add("a")
		s := b.open(Request{Workers: 2})
		close(b.workers.get("a").recalled)
		synctest.Wait()
		if b.workers.get("a").recalled == nil || b.look(s.ID).Ready != 1 {
			t.Errorf("it is not reserved anew: %+v", b.look(s.ID))
		}
		b.workers.add("b")
		b.want(s.ID, Ready, 2, "connect within 1m0s")
		kept := b.workers.get("b")
		close(kept.recalled)
		b.want(s.ID, Ready, 2, "connect within 1m0s")
		if b.workers.get("b") != kept {
			t.Error("a promised worker was given back")
		}
	})
}

// What can never be met is refused at once; a lease is its user's alone.
func TestRefusals(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.limits.never = &Refusal{ErrNever, NoGroup, `there is no worker group "gpu"`}
		if _, err := b.Open(uid, Request{Workers: 1, Group: "gpu"}); !errors.Is(err, ErrNever) || err.Error() != `there is no worker group "gpu"` {
			t.Errorf("refused with %v", err)
		}
		if b.refusals(NoGroup) != 1 {
			t.Error("the refusal is not counted")
		}
		b.limits.never = nil
		s := b.open(Request{Workers: 1})
		if _, err := b.Wait(t.Context(), uid+1, s.ID, -1, 0); !errors.Is(err, ErrOwner) {
			t.Errorf("another user asks: %v", err)
		}
		if err := b.Close(uid+1, s.ID); !errors.Is(err, ErrOwner) {
			t.Errorf("another user gives it back: %v", err)
		}
		if _, err := b.Wait(t.Context(), uid, "k3", -1, 0); !errors.Is(err, ErrUnknown) {
			t.Errorf("an unknown lease: %v", err)
		}
		if err := b.Close(uid, "k3"); err != nil {
			t.Errorf("an unknown lease is given back: %v", err)
		}
	})
}

func TestLeasesAreCountedByState(t *testing.T) {
	run(t, func(t *testing.T, b *book) {
		b.workers.add("a")
		b.open(Request{Workers: 1})
		b.open(Request{Workers: 1})
		want := `
# HELP rendezvous_leases Leases that sessions have asked for, by what has become of them.
# TYPE rendezvous_leases gauge
rendezvous_leases{state="connected"} 0
rendezvous_leases{state="ready"} 1
rendezvous_leases{state="waiting"} 1
`
		if err := testutil.GatherAndCompare(b.registry, strings.NewReader(want), "rendezvous_leases"); err != nil {
			t.Error(err)
		}
		problems, err := testutil.GatherAndLint(b.registry)
		if err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	})
}
