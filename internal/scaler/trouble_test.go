package scaler

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Whoever takes replicas away that are wanted is let, for a while that grows.
func TestScaledByOthers(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 6
	w.run(10 * time.Second)
	w.busy = map[string]int{}
	w.set(2)
	w.run(20 * time.Second)
	w.expect("left as it is", 2, 2)
	if got := w.condition(ScaledByOthers); !strings.HasPrefix(got, "Lowered: somebody else has set 2 replicas, after 6, less than is wanted; it is left so until 03:0") {
		t.Error(got)
	}
	if starting, text := w.scaler.Starting("default"); !starting || !strings.HasPrefix(text, "2 of 6 pods run; Lowered: ") {
		t.Error(starting, text)
	}
	w.run(55 * time.Second)
	w.expect("a minute later", 6, 6)
	clear(w.busy)
	w.set(1)
	w.run(80 * time.Second)
	w.expect("the second time it is longer", 1, 1)
	w.run(55 * time.Second)
	w.expect("but has an end", 6, 6)
	if got := w.condition(ScaledByOthers); got != "" {
		t.Error(got)
	}

	// More than are wanted, or may be, stay for the idle time.
	w.wanted = 2
	w.set(9)
	w.run(50 * time.Second)
	w.expect("nine", 9, 2)
	if got := w.condition(ScaledByOthers); got != "Raised: somebody else has set 9 replicas, after 6" {
		t.Error(got)
	}
	w.run(30 * time.Second)
	w.expect("two", 2, 2)

	// Fewer, and more than are wanted: nobody need wait when more are.
	w.set(5)
	w.run(10 * time.Second)
	w.set(3)
	w.run(5 * time.Second)
	w.wanted = 6
	w.run(10 * time.Second)
	w.expect("six at once", 6, 6)
}

// The number is never written over one that was not read.
func TestConflictIsNotOverwritten(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 2
	raced := false
	w.after = func(verb string) {
		if verb == "get" && !raced {
			raced = true
			w.set(5)
		}
	}
	w.run(3 * time.Second)
	w.expect("somebody's five", 5, 0)
	if n := testutil.ToFloat64(w.scaler.groups[0].metrics.failures.WithLabelValues("default", conflict)); n != 1 {
		t.Errorf("%v conflicts", n)
	}
	// One that is only about the status is tried again at once.
	w.wanted, raced = 6, false
	w.after = func(verb string) {
		if verb == "get" && !raced {
			raced = true
			w.version++
		}
	}
	w.run(time.Second)
	w.expect("six", 6, 0)
}

func TestNothingChangesInAnOutage(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 2
	w.run(10 * time.Second)
	w.err = func(string) error { return errors.New("dial tcp 10.96.0.1:443: i/o timeout") }
	w.wanted = 5
	before := w.calls["get"]
	w.run(time.Minute)
	w.expect("during the outage", 2, 2)
	if calls := w.calls["get"] - before; calls < 4 || calls > 20 {
		t.Errorf("%d requests in a minute", calls)
	}
	if got := w.condition(ScalingFails); got != "Unreachable: the API server does not answer as it should: dial tcp 10.96.0.1:443: i/o timeout" {
		t.Error(got)
	}
	if starting, text := w.scaler.Starting("default"); !starting || !strings.HasPrefix(text, "2 of 5 pods run; Unreachable: ") {
		t.Error(starting, text)
	}
	w.err = nil
	w.run(30 * time.Second)
	w.expect("after it", 5, 5)
	if got := w.condition(ScalingFails); got != "" {
		t.Error(got)
	}
	lines := w.logs.FilterField(zap.String("type", string(ScalingFails)))
	if lines.Len() != 2 || lines.All()[1].Message != "a condition of the group's scaling is over" {
		t.Errorf("log: %v", lines.All())
	}
}

// A request that was carried out and not answered is found out about.
func TestUnknownFate(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 4
	w.run(10 * time.Second)
	w.wanted = 1
	once := func() bool { w.lost = nil; return true }
	w.err = func(verb string) error {
		if verb != "scale" {
			return nil
		}
		w.err = nil
		return errLost
	}
	w.run(61 * time.Second)
	w.expect("not carried out", 4, 1)
	w.run(10 * time.Second)
	w.expect("so it is again", 1, 1)
	w.wanted = 4
	w.run(10 * time.Second)
	w.wanted = 1
	w.lost = once
	w.run(70 * time.Second)
	w.expect("carried out", 1, 1)
	if got := w.condition(ScaledByOthers); got != "" || len(w.cordoned) != 0 || len(w.pods) != 1 {
		t.Errorf("%q, cordoned: %v, %d pods", got, w.cordoned, len(w.pods))
	}
}

func TestMissingRightIsToldByVerb(t *testing.T) {
	for verb, what := range map[string]string{"get": "", "scale": "scale", "patch": "patch"} {
		t.Run(verb, func(t *testing.T) {
			w := newWorld(t, standard())
			refuse := func(v string) error {
				if v == verb {
					return apierrors.NewForbidden(deployments, "future-worker", errors.New("no rule"))
				}
				return nil
			}
			w.wanted = 3
			if verb == "patch" {
				w.run(10 * time.Second)
				w.wanted = 1
			}
			w.err = refuse
			w.run(3 * time.Minute)
			if w.calls[verb] < 5 || w.calls[verb] > 40 {
				t.Errorf("%d attempts in three minutes", w.calls[verb])
			}
			if got := w.condition(ScalingFails); !strings.HasPrefix(got, "Forbidden: allow get of Deployment future-worker, update of its scale, and patch of pods: ") {
				t.Error(got)
			}
			if starting, _ := w.scaler.Starting("default"); starting {
				t.Error("demand is told to wait")
			}
			if len(w.cordoned) != 0 {
				t.Errorf("cordoned: %v", w.cordoned)
			}
			w.err = nil
			w.run(40 * time.Second)
			if got := w.condition(ScalingFails); got != "" || w.replicas != w.wanted {
				t.Errorf("allowed: %d replicas, %q%s", w.replicas, got, what)
			}
		})
	}
}

func TestQuotaIsTold(t *testing.T) {
	w := newWorld(t, standard())
	w.quota, w.wanted = 2, 6
	w.run(10 * time.Second)
	for range 10 {
		w.run(time.Second)
		w.expect("two of six", 6, 2)
		if got := w.condition(PodsFail); got != "FailedCreate: exceeded quota: q" {
			t.Errorf("%s: %q", w.now.Sub(start), got)
		}
	}
	if starting, text := w.scaler.Starting("default"); starting || text != "2 of 6 pods run; FailedCreate: exceeded quota: q" {
		t.Error(starting, text)
	}
	// The four that are not there go first, and need no mark.
	w.wanted = 2
	w.run(70 * time.Second)
	w.expect("two of two", 2, 2)
	if w.calls["patch"] != 0 {
		t.Errorf("%d marks", w.calls["patch"])
	}
	if got := w.condition(PodsFail); got != "" {
		t.Error(got)
	}
	// When more are allowed, it is over once they are there.
	w.wanted = 6
	w.run(10 * time.Second)
	if got := w.condition(PodsFail); got == "" {
		t.Error("no condition")
	}
	w.quota = 6
	w.run(10 * time.Second)
	w.expect("six of six", 6, 6)
	if got := w.condition(PodsFail); got != "" {
		t.Error(got)
	}
}

// What Kubernetes said of pods that it could not make holds until they are there.
func TestFailedPods(t *testing.T) {
	before := failedPods{failedCreate, "exceeded quota"}
	for name, tc := range map[string]struct {
		before failedPods
		read   Deployment
		want   failedPods
	}{
		"some are missing":          {before, Deployment{Replicas: 6, Pods: 3, Updated: 3}, before},
		"all are there":             {before, Deployment{Replicas: 6, Pods: 6, Updated: 6}, failedPods{}},
		"fewer are wanted":          {before, Deployment{Replicas: 3, Pods: 3, Updated: 3}, failedPods{}},
		"old ones stand in":         {before, Deployment{Replicas: 6, Pods: 7, Updated: 3}, before},
		"old ones, for it rests":    {before, Deployment{Replicas: 6, Pods: 6, Updated: 0, Paused: true}, failedPods{}},
		"another failure":           {before, Deployment{Replicas: 6, Pods: 3, Updated: 3, Failure: failedCreate, FailureMessage: "forbidden"}, failedPods{failedCreate, "forbidden"}},
		"they could not be deleted": {failedPods{"FailedDelete", "no"}, Deployment{Replicas: 6, Pods: 3, Updated: 3}, failedPods{}},
	} {
		if got := tc.before.after(tc.read); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// Pods that are not ready are deleted before any that is: one that is in use keeps all
// that would come after it.
func TestNotReadyAndInUse(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 4
	w.run(10 * time.Second)
	w.wanted = 1
	w.run(time.Second)
	var used string
	for name, n := range w.busy {
		if n > 0 {
			used = name
		}
	}
	view := w.scaler.groups[0].look(w.now)
	for i := range view.pods {
		view.pods[i].Ready = view.pods[i].Name != used
	}
	if victims := choose(view, 3, nil); len(victims) != 0 {
		t.Errorf("victims: %v", victims)
	}
	view.pods = append(view.pods, pods.Status{Name: "new", Phase: corev1.PodPending})
	if victims := choose(view, 3, nil); fmt.Sprint(victims) != "[{new 0}]" {
		t.Errorf("victims: %v", victims)
	}
}

func TestDeploymentDeleted(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 3
	w.run(10 * time.Second)
	w.gone = true
	w.run(15 * time.Second)
	if got := w.condition(ScalingFails); !strings.HasPrefix(got, "NotFound: there is no Deployment future-worker, make it anew ('helm upgrade' does): ") {
		t.Error(got)
	}
	if starting, _ := w.scaler.Starting("default"); starting {
		t.Error("demand is told to wait")
	}
	w.gone = false
	w.uid++
	w.set(1) // as it is made
	w.run(30 * time.Second)
	w.expect("there again", 3, 3)
	if got := w.condition(ScalingFails) + w.condition(ScaledByOthers); got != "" {
		t.Error(got)
	}
}

func TestPausedDeploymentIsTold(t *testing.T) {
	w := newWorld(t, standard())
	w.paused, w.wanted = true, 2
	w.run(10 * time.Second)
	w.expect("paused", 2, 2)
	if got := w.condition(Paused); !strings.HasPrefix(got, "Paused: ") {
		t.Error(got)
	}
}

// Pods that do not start: what for they wait, for how long there is hope, and why.
func TestPodsDoNotStart(t *testing.T) {
	w := newWorld(t, standard())
	w.nodes, w.wanted = nil, 2
	w.run(20 * time.Second)
	for _, pod := range w.pods {
		pod.Reason = "Unschedulable: 0/2 nodes are available"
	}
	w.run(time.Second)
	if starting, text := w.scaler.Starting("default"); !starting || text != "0 of 2 pods run; future-worker-001: Unschedulable: 0/2 nodes are available; future-worker-002: Unschedulable: 0/2 nodes are available" {
		t.Error(starting, text)
	}
	if lines := w.logs.FilterMessage("waiting for worker pods"); lines.Len() == 0 || lines.Len() > 3 {
		t.Errorf("%d lines of what is waited for in 20 seconds", lines.Len())
	}
	asked := w.calls["events"]
	w.news = map[string]string{"future-worker-002": "pod triggered scale-up: [{pool 1->2 (max: 9)}]"}
	w.run(10 * time.Second)
	if text := w.scaler.Explain("default"); !strings.HasSuffix(text, "; future-worker-002: a node is being added: pod triggered scale-up: [{pool 1->2 (max: 9)}]") {
		t.Error(text)
	}
	if n := w.calls["events"] - asked; n != 1 {
		t.Errorf("asked %d times in ten seconds", n)
	}
	w.news = nil
	w.run(10 * time.Minute)
	if got := w.condition(PodsFail); got != "StartTimeout: 0 of 2 pods are ready, and for 10m0s none was added to them; future-worker-001: Unschedulable: 0/2 nodes are available; and 1 more" {
		t.Error(got)
	}
	if starting, _ := w.scaler.Starting("default"); starting {
		t.Error("demand is told to wait")
	}
	// A pod that comes, as does more demand, is a reason to wait again.
	w.nodes = []string{"n1"}
	w.run(10 * time.Second)
	w.expect("with a node", 2, 2)
	w.reason, w.wanted = "ImagePullBackOff: Back-off pulling image", 4
	w.run(10 * time.Second)
	if got := w.condition(PodsFail); !strings.HasPrefix(got, "CannotStart: no pod that is missing can start; future-worker-") {
		t.Error(got)
	}
	if starting, _ := w.scaler.Starting("default"); starting {
		t.Error("demand is told to wait")
	}
	// It is not in use, and goes before those that work.
	w.wanted = 2
	w.run(70 * time.Second)
	w.expect("two that work", 2, 2)
}

// Two rendezvous with the same Deployment: each counts what serves the other as not there.
func TestPodsElsewhere(t *testing.T) {
	w := newWorld(t, standard())
	w.wanted = 2
	w.run(10 * time.Second)
	theirs := &theirs{world: w, names: map[string]bool{}}
	for name := range w.pods {
		theirs.names[name] = true
		delete(w.busy, name)
	}
	w.scaler.groups[0].pool = theirs
	w.run(35 * time.Second)
	if got := w.condition(PodsElsewhere); !strings.HasPrefix(got, "Unconnected: 2 pods are ready and serve no session here") {
		t.Error(got)
	}
	if w.replicas != 4 {
		t.Errorf("%d replicas, want 2 more than there", w.replicas)
	}
	w.wanted = 0
	w.run(2 * time.Minute)
	if w.replicas != 2 {
		t.Errorf("%d replicas, want the other's two", w.replicas)
	}
}

// theirs is a pool in which some agents are not connected.
type theirs struct {
	*world
	names map[string]bool
}

func (o *theirs) Agents(group string) (names []string) {
	for _, name := range o.world.Agents(group) {
		if !o.names[name] {
			names = append(names, name)
		}
	}
	return names
}

func (o *theirs) Idle(group string) (names []string) {
	for _, name := range o.world.Idle(group) {
		if !o.names[name] {
			names = append(names, name)
		}
	}
	return names
}
