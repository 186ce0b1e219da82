package scaler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// troubles are what goes wrong in a world at random.
type troubles struct {
	random *rand.Rand
	// How likely a request fails, its answer is lost, others change the Deployment.
	fail, lose, clash float64
}

// change makes some of it better or worse, and has sessions want something else.
func (x *troubles) change(w *world) {
	r := x.random
	switch r.IntN(8) {
	case 0, 1, 2:
		w.wanted = r.IntN(14)
	case 3:
		x.fail = []float64{0, 0.3, 1}[r.IntN(3)]
	case 4:
		x.lose = []float64{0, 0.5}[r.IntN(2)]
	case 5:
		x.clash = []float64{0, 0.5}[r.IntN(2)]
	case 6:
		w.stalled = r.IntN(3) == 0
	case 7:
		w.paused = r.IntN(2) == 0
		w.startup = time.Duration(1+r.IntN(20)) * time.Second
	}
}

func (x *troubles) afflict(w *world) {
	happens := func(likely float64) bool { return x.random.Float64() < likely }
	failures := []error{
		errors.New("dial tcp: timeout"), apierrors.NewInternalError(errors.New("etcdserver: request timed out")),
		apierrors.NewForbidden(deployments, "future-worker", errors.New("no")), apierrors.NewTooManyRequests("later", 1),
	}
	w.err = func(string) error {
		if happens(x.fail) {
			return failures[x.random.IntN(len(failures))]
		}
		return nil
	}
	w.lost = func() bool { return happens(x.lose) }
	w.after = func(verb string) {
		if verb == "get" && happens(x.clash) {
			w.version++
		}
	}
}

// Whatever goes wrong, and for however long: no pod is deleted that is in use, there are
// never more than there may be, and when nothing is wrong any more all is as it should be.
func TestTroubles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			x := &troubles{random: rand.New(rand.NewPCG(seed, 7))}
			config := standard()
			config.Min, config.Rate = x.random.IntN(2), 2*x.random.IntN(2)
			w := newWorld(t, config)
			x.afflict(w)
			for range 60 {
				x.change(w)
				w.run(time.Duration(1+x.random.IntN(90)) * time.Second)
				if w.replicas > config.Max {
					t.Fatalf("%s: %d replicas, the maximum is %d", w.now.Sub(start), w.replicas, config.Max)
				}
				if t.Failed() {
					return
				}
			}
			*x = troubles{random: x.random}
			w.stalled, w.paused, w.wanted = false, false, x.random.IntN(8)
			w.run(20 * time.Minute)
			w.expect("in the end", config.bounded(w.wanted), min(w.wanted, config.Max))
			marked := slices.ContainsFunc(w.Group("default"), func(p pods.Status) bool { return p.Cost == markCost })
			if leaving := w.scaler.groups[0].memory.leaving; len(w.cordoned) > 0 || len(leaving) > 0 || marked {
				t.Errorf("in the end %v are cordoned, %v leaving, marked: %v", w.cordoned, leaving, marked)
			}
		})
	}
}
