package scaler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestUpAtOnceAndDownToTheMinimum(t *testing.T) {
	for name, minimum := range map[string]int{"zero": 0, "two": 2} {
		t.Run(name, func(t *testing.T) {
			g := standard()
			g.Min = minimum
			w := newWorld(t, g)
			w.run(10 * time.Second)
			w.expect("at first", minimum, 0)
			w.wanted = 5
			w.run(time.Second)
			w.expect("a second later", 5, min(minimum, 5))
			w.run(7 * time.Second)
			w.expect("when the pods are ready", 5, 5)
			w.wanted = 0
			w.run(g.Idle - time.Second)
			w.expect("before the idle time is over", 5, 0)
			w.run(2 * time.Second)
			w.expect("after it", minimum, 0)
			w.run(5 * time.Second)
			if len(w.pods) != minimum || len(w.cordoned) != 0 {
				t.Errorf("%d pods, cordoned: %v", len(w.pods), w.cordoned)
			}
			w.wanted = 3
			w.run(10 * time.Second)
			w.expect("again", 3, 3)
		})
	}
}

// What was wanted at any time of the idle window stays.
func TestPeaksOfTheIdleWindowStay(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 6
	w.run(10 * time.Second)
	for range 10 { // a plan() every 50 s
		w.wanted = 0
		w.run(45 * time.Second)
		w.wanted = 4
		w.run(5 * time.Second)
	}
	w.expect("after ten plans", 4, 4)
	w.wanted = 1
	w.run(70 * time.Second)
	w.expect("with one worker in use", 1, 1)
}

func TestPodsOfSeveralSlots(t *testing.T) {
	g := standard()
	g.Slots = 4
	w := newWorld(t, g)
	w.wanted = 9
	w.run(10 * time.Second)
	w.expect("nine workers, four in a pod", 3, 9)
	w.wanted = 100
	w.run(10 * time.Second)
	w.expect("more than there may be", 6, 24)
	if got := w.condition(Limited); got != "Maximum: 25 pods are wanted, the maximum is 6" {
		t.Error(got)
	}
	if got := w.scaler.Max(""); got != 24 {
		t.Errorf("Max: %d", got)
	}
	// Five workers in as many pods: none may go, although two pods would do.
	w.wanted = 5
	w.run(time.Second)
	clear(w.busy)
	for i, name := range w.Agents("") {
		if i < 5 {
			w.busy[name] = 1
		}
	}
	w.run(2 * time.Minute)
	w.expect("the sixth alone was idle", 5, 5)
}

func TestPodsPerMinuteAreBounded(t *testing.T) {
	g := standard()
	g.Max, g.Rate = 100, 10
	w := newWorld(t, g)
	w.wanted = 25
	for minute, want := range []int{10, 20, 25, 25} {
		w.run(2 * time.Second)
		if w.replicas != want {
			t.Errorf("minute %d: %d replicas, want %d", minute, w.replicas, want)
		}
		if got := w.condition(Limited) != ""; got != (want < 25) {
			t.Errorf("minute %d: %q", minute, w.condition(Limited))
		}
		w.run(58 * time.Second)
	}
}

// Random sessions, and whatever happens to Deployments: no pod in use is deleted, what is
// wanted is there in the end, and so is nothing else.
func TestNothingInUseIsDeleted(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			g := standard()
			g.Max, g.Slots, g.Idle = 30, 1+random.IntN(3), 20*time.Second
			w := newWorld(t, g)
			w.startup = time.Duration(1+random.IntN(20)) * time.Second
			for range 60 {
				w.wanted = random.IntN(30 * g.Slots)
				w.calmDown()
				switch random.IntN(9) {
				case 0:
					w.err = func(verb string) error {
						if random.IntN(2) == 0 {
							return errors.New("connection refused")
						}
						return nil
					}
				case 1:
					w.stalled = true
				case 2:
					w.quota = 1 + random.IntN(20)
				case 3: // a status that changes all the time
					w.after = func(string) {
						if random.IntN(3) == 0 {
							w.version++
						}
					}
				case 4:
					w.lost = func() bool { return random.IntN(2) == 0 }
				case 5:
					for _, name := range w.Agents("") {
						w.pods[name].silent = random.IntN(5) == 0 && w.observed == w.generation
					}
				case 6:
					if more := w.replicas + random.IntN(5); more <= 30 {
						w.set(more)
					}
				}
				w.run(time.Duration(1+random.IntN(40)) * time.Second)
			}
			w.calmDown()
			w.wanted = 7
			w.run(10 * time.Minute)
			pods := 0 // with a worker in use
			for _, n := range w.busy {
				if n > 0 {
					pods++
				}
			}
			w.expect("in the end", pods, 7)
			if len(w.cordoned) != 0 {
				t.Errorf("cordoned: %v", w.cordoned)
			}
			for name, pod := range w.pods {
				if pod.Cost != "" {
					t.Errorf("%s is marked", name)
				}
			}
		})
	}
}

// calmDown ends what is out of the ordinary.
func (w *world) calmDown() {
	w.err, w.lost, w.after, w.stalled, w.quota = nil, nil, nil, false, 0
	for _, pod := range w.pods {
		pod.silent = false
	}
}

// The pods that are deleted are those that leave a node empty.
func TestVictimsEmptyNodes(t *testing.T) {
	w := newWorld(t, standard())
	w.nodes = []string{"n1", "n2", "n3"}
	w.wanted = 6
	w.run(10 * time.Second)
	clear(w.busy)
	kept := 0
	for name, pod := range w.pods { // one on each of two nodes
		if pod.Node != "n2" && kept < 2 {
			w.busy[name] = 1
			pod.Node = []string{"n1", "n3"}[kept]
			kept++
		}
	}
	w.wanted = 2
	w.run(70 * time.Second)
	w.expect("two in use", 2, 2)
	for name, pod := range w.pods {
		if pod.Node == "n2" {
			t.Errorf("%s is on n2", name)
		}
	}
}

// A demand that comes back while pods are on their way out has what it wants.
func TestNeededAgain(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 6
	w.run(10 * time.Second)
	w.wanted = 0
	w.run(time.Minute)
	w.stalled = true // they are told to go, and nobody deletes them yet
	w.run(2 * time.Second)
	if w.replicas != 0 || len(w.cordoned) != 6 {
		t.Fatalf("%d replicas, %d cordoned", w.replicas, len(w.cordoned))
	}
	w.wanted = 4
	w.run(time.Second)
	w.expect("told to stay", 4, 0)
	w.stalled = false
	w.run(5 * time.Second)
	w.expect("four have stayed", 4, 4)
	if len(w.cordoned) > 2 {
		t.Errorf("cordoned: %v", w.cordoned)
	}
}

// Pods that nobody deletes are back in the pool, and are not to be deleted any more.
func TestNotDeleted(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 3
	w.run(10 * time.Second)
	w.wanted = 0
	w.run(50 * time.Second)
	w.stalled = true
	w.run(20 * time.Second)
	w.expect("told to go", 0, 0)
	w.run(40 * time.Second)
	w.expect("told to stay", 3, 0)
	if len(w.cordoned) != 0 {
		t.Errorf("cordoned: %v", w.cordoned)
	}
	if got := w.condition(PodsFail); !strings.HasPrefix(got, "NotDeleted: ") {
		t.Error(got)
	}
	w.wanted, w.stalled = 2, false
	w.run(5 * time.Second)
	w.expect("used again", 3, 2)
	w.run(7 * time.Minute)
	w.expect("tried again", 2, 2)
	if got := w.condition(PodsFail); got != "" {
		t.Error(got)
	}
}

// A mark that a Scaler has left is taken away, others' are not.
func TestStrayMarks(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 2
	w.run(10 * time.Second)
	names := w.Agents("")
	w.pods[names[0]].Cost, w.pods[names[1]].Cost = markCost, "7"
	w.run(5 * time.Second)
	if w.pods[names[0]].Cost != markCost {
		t.Error("a second Scaler would have no time to use its mark")
	}
	w.run(15 * time.Second)
	if a, b := w.pods[names[0]].Cost, w.pods[names[1]].Cost; a != "" || b != "7" {
		t.Errorf("costs %q, %q", a, b)
	}
}

// At rest the API server is hardly asked.
func TestAtRest(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 3
	w.run(2 * time.Minute)
	before := w.calls["get"]
	w.run(5 * time.Minute)
	if calls := w.calls["get"] - before; calls > 30 {
		t.Errorf("%d requests in five minutes", calls)
	}
}

// Many go in parts, each of which is marked; all of them at once, without.
func TestManyGo(t *testing.T) {
	g := standard()
	g.Max = 1000
	w := newWorld(t, g)
	w.wanted = 500
	w.run(10 * time.Second)
	w.wanted = 5
	w.run(62 * time.Second)
	if w.replicas != 400 {
		t.Errorf("%d replicas", w.replicas)
	}
	w.run(30 * time.Second)
	w.expect("in the end", 5, 5)
	marks := w.calls["patch"]
	w.wanted = 500
	w.run(10 * time.Second)
	w.wanted = 0
	w.run(62 * time.Second)
	w.expect("all at once", 0, 0)
	if w.calls["patch"] != marks {
		t.Errorf("%d marks for nothing", w.calls["patch"]-marks)
	}
}
