package rendezvous

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// guarded is a guard that runs in a time of its own, which passes at once.
type guarded struct {
	*guard
	watch *scripted
	logs  *observer.ObservedLogs
}

// scripted is a watch that waits for the news of a pod, and calls verified when it has.
type scripted struct {
	*watched
	verified func()
}

func (s *scripted) Verify(ctx context.Context, claim pods.Claim) error {
	s.mu.Lock()
	_, known := s.pods[claim.Name]
	s.mu.Unlock()
	if known {
		return nil
	}
	<-ctx.Done()
	s.verified()
	return fmt.Errorf("%w: no such pod", pods.ErrNotKnown)
}

func withGuard(t *testing.T, f func(*testing.T, guarded)) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := testkit.Logger()
		config := Config{Log: log}
		watch := &scripted{newWatched("pod-a", "pod-b", "pod-c"), func() {}}
		g := guarded{newGuard(config, watch, newRefusals(config.Log, prometheus.NewRegistry())), watch, logs}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- g.run(ctx) }()
		f(t, g)
		cancel()
		<-ended
	})
}

// warnings is what everybody sees.
func (g guarded) warnings() int { return g.logs.FilterLevelExact(zapcore.WarnLevel).Len() }

// comes has an agent of that name be let in without a look at its pod.
func (g guarded) comes(t *testing.T, name string) *link.Conn {
	t.Helper()
	listener := testkit.Listen(t)
	conn, err := link.Dial(t.Context(), listener.Addr().String(), nil, link.Timing{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if !g.postpone(conn, pods.Claim{Name: name, Group: "default"}) {
		t.Fatal("there is no watch, and it is looked at")
	}
	return conn
}

// Each watch ends after some minutes, and the next one begins at once: whoever comes between
// the two is looked at, and that is all. So it is with an outage of seconds.
func TestNoWarningBetweenTwoWatches(t *testing.T) {
	withGuard(t, func(t *testing.T, g guarded) {
		time.Sleep(time.Hour) // nobody has come yet, so nobody is let in unchecked
		g.watch.answer()
		for range 3 {
			time.Sleep(10 * time.Minute)
			g.watch.fail()
			g.comes(t, "pod-a")
			time.Sleep(podNewsPatience / 2)
			g.watch.answer()
			synctest.Wait()
		}
		g.watch.fail() // for long, and nobody comes
		time.Sleep(time.Hour)
		g.watch.answer()
		synctest.Wait()
		if n := g.warnings(); n != 0 {
			t.Errorf("%d warnings: %+v", n, g.logs.All())
		}
	})
}

// One warning for each outage in which agents are let in unchecked, with their number.
func TestOneWarningAnOutage(t *testing.T) {
	withGuard(t, func(t *testing.T, g guarded) {
		for outage := 1; outage < 3; outage++ {
			left := g.comes(t, "pod-c")
			time.Sleep(podNewsPatience / 2)
			g.forget(left)
			time.Sleep(time.Minute)
			if n := g.warnings(); n != outage-1 {
				t.Errorf("%d warnings: %+v", n, g.logs.All())
			}
			g.comes(t, "pod-a")
			g.comes(t, "pod-b")
			time.Sleep(time.Minute)
			g.comes(t, "pod-c")
			time.Sleep(time.Minute)
			warnings := g.logs.FilterMessageSnippet("by certificate alone").All()
			if len(warnings) != outage || warnings[outage-1].ContextMap()["agents"] != int64(2) {
				t.Errorf("%+v", warnings)
			}
			g.watch.answer()
			synctest.Wait()
			if g.agents() != 0 {
				t.Errorf("%d are unchecked", g.agents())
			}
			g.watch.fail()
		}
	})
}

// An agent that has left by itself meanwhile is not refused.
func TestLeavesWhileItIsLookedAt(t *testing.T) {
	withGuard(t, func(t *testing.T, g guarded) {
		stranger := g.comes(t, "stranger")
		g.watch.verified = func() { g.forget(stranger) }
		g.watch.answer()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := g.warnings(); n != 0 {
			t.Errorf("%+v", g.logs.All())
		}
	})
}

// The watch ends and begins while news of a pod are waited for: they may be yet to come.
func TestTheWatchEndsWhileItIsLookedAt(t *testing.T) {
	withGuard(t, func(t *testing.T, g guarded) {
		g.comes(t, "stranger")
		var looks atomic.Int32
		g.watch.verified = func() {
			if looks.Add(1) == 1 {
				g.watch.fail()
				g.watch.answer()
			}
		}
		g.watch.answer()
		time.Sleep(podNewsPatience)
		synctest.Wait()
		if n := g.warnings(); n != 0 || looks.Load() != 1 {
			t.Errorf("%d looks, %+v", looks.Load(), g.logs.All())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := g.warnings(); n != 1 || looks.Load() != 2 || g.agents() != 0 {
			t.Errorf("%d looks, %d are unchecked, %+v", looks.Load(), g.agents(), g.logs.All())
		}
	})
}
