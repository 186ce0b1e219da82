package scaler

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"go.uber.org/zap"
)

// looks counts how often somebody looks at the pods.
type looks struct {
	*steady
	n atomic.Int64
}

func (l *looks) Group(name string) []pods.Status {
	l.n.Add(1)
	return l.steady.Group(name)
}

// Demand that is announced is looked at at once if it is more than there was; if it is
// not, as when sessions that compete take turns, the next second will do.
func TestPokedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &looks{steady: &steady{deployment: Deployment{UID: "1", Replicas: 6, Observed: true}}}
		var wanted atomic.Int64
		scaler := New(Config{
			Log: zap.NewNop(), Metrics: NewMetrics(prometheus.NewRegistry()), Groups: []Group{standard()}, Cluster: l, Pods: l, Pool: l,
			Wanted: func() map[string]int { return map[string]int{"": int(wanted.Load())} },
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- scaler.Run(ctx) }()
		wanted.Store(3)
		scaler.Poke()
		<-time.After(100 * time.Millisecond)
		if got := l.n.Load(); got != 1 {
			t.Errorf("looked %d times when more was wanted", got)
		}
		for range 100 {
			scaler.Poke()
			<-time.After(10 * time.Millisecond)
		}
		if got := l.n.Load(); got != 2 {
			t.Errorf("looked %d times, a second later, want 2", got)
		}
		for _, n := range []int64{6, 7, 100} { // six is the maximum
			wanted.Store(n)
			scaler.Poke()
			<-time.After(100 * time.Millisecond)
		}
		if got := l.n.Load(); got != 3 {
			t.Errorf("looked %d times, want 3", got)
		}
		stop()
		<-ended
	})
}
