package pods

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

func TestMain(m *testing.M) {
	// A WebSocket that was cut off, not closed: client-go notices with its next ping, 5 s later.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
}

type rig struct {
	*Watcher
	logs     *observer.ObservedLogs
	registry *prometheus.Registry
}

func watch(t *testing.T, s *apiServer) rig {
	log, logs := testkit.Logger()
	registry := prometheus.NewRegistry()
	w, err := New(Config{
		Log: log, Metrics: NewMetrics(registry), API: &rest.Config{Host: s.URL}, Namespace: "ns",
		Selector: labels.SelectorFromSet(labels.Set{"component": "worker"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, w.Run)
	return rig{w, logs, registry}
}

var (
	ready  = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	noRoom = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no room"}}}
	oom = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "worker", State: terminated("OOMKilled", 137)}}}
)

func TestMissingPodsHaveReasons(t *testing.T) {
	s := newAPIServer(t)
	s.set("b", &noRoom)
	s.set("a", &ready)
	w := watch(t, s)
	testkit.Eventually(t, "b to be missing", func() bool { return fmt.Sprint(w.Missing()) == "[{b Unschedulable: no room}]" })
	s.set("a", &oom)
	testkit.Eventually(t, "a to be missing as well", func() bool {
		return fmt.Sprint(w.Missing()) == "[{a container worker ended by OOMKilled, exit code 137} {b Unschedulable: no room}]"
	})
	s.set("b", nil)
	s.set("a", &ready)
	testkit.Eventually(t, "nothing to be missing", func() bool { return len(w.Missing()) == 0 })
	if n := w.logs.FilterMessage("worker pod's container ended").Len(); n != 1 {
		t.Errorf("%d lines about the container's end, want 1", n)
	}
	if err := testutil.GatherAndCompare(w.registry, strings.NewReader(`
# HELP rendezvous_worker_pod_ends_total Worker pods, or containers of theirs, that ended, by Kubernetes' reason.
# TYPE rendezvous_worker_pod_ends_total counter
rendezvous_worker_pod_ends_total{reason="Completed"} 0
rendezvous_worker_pod_ends_total{reason="Error"} 0
rendezvous_worker_pod_ends_total{reason="Evicted"} 0
rendezvous_worker_pod_ends_total{reason="NodeLost"} 0
rendezvous_worker_pod_ends_total{reason="OOMKilled"} 1
rendezvous_worker_pod_ends_total{reason="Preempting"} 0
rendezvous_worker_pod_ends_total{reason="other"} 0
`)); err != nil {
		t.Error(err)
	}
	for _, query := range s.Queries() {
		if !strings.HasPrefix(query, "/api/v1/namespaces/ns/pods?") || !strings.Contains(query, "labelSelector=component%3Dworker") {
			t.Errorf("it asked for %s", query)
		}
	}
}

func TestGroupsHaveTheirPods(t *testing.T) {
	s := newAPIServer(t)
	of := func(group, node string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { pod.Labels, pod.Spec.NodeName = map[string]string{"group": group}, node }
	}
	s.set("b", &noRoom)
	s.setWith("a", &ready, of("default", "n1"))
	s.setWith("c", &ready, of("gpu", "n2"))
	now := metav1.Now()
	s.setWith("d", &ready, func(pod *corev1.Pod) {
		pod.DeletionTimestamp, pod.Annotations = &now, map[string]string{corev1.PodDeletionCost: "-7"}
	})
	s.set("e", &corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"})
	w := watch(t, s)
	const want = "[{a n1 Running true false  } {b  Pending false false  Unschedulable: no room} {d  Running true true -7 Terminating} {e  Failed false true  Evicted}]"
	testkit.Eventually(t, want, func() bool {
		all := w.Group("default")
		slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
		return fmt.Sprint(all) == want
	})
	if got := fmt.Sprint(w.Group("gpu"), w.Group("none")); got != "[{c n2 Running true false  }] []" {
		t.Error(got)
	}
	s.set("b", nil)
	testkit.Eventually(t, "b to be gone", func() bool { return len(w.Group("default")) == 3 })
}

func TestWhyWaitsForTheReason(t *testing.T) {
	s := newAPIServer(t)
	for _, name := range []string{"a", "b", "c"} {
		s.set(name, &ready)
	}
	w := watch(t, s)
	testkit.Eventually(t, "the pods to be known", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.pods) == 3 })
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()

	why := make(chan string)
	go func() { why <- w.Why(ctx, "a") }()
	s.set("a", &oom)
	if got := <-why; got != "OOMKilled, exit code 137" {
		t.Errorf("a: %q", got)
	}
	go func() { why <- w.Why(ctx, "b") }()
	s.set("b", nil)
	if got := <-why; got != "the pod was deleted" {
		t.Errorf("b: %q", got)
	}
	if got := w.Why(ctx, "b"); got != "the pod was deleted" {
		t.Errorf("b, asked afterwards: %q", got)
	}
	if got := w.Why(ctx, "unknown"); got != "" {
		t.Errorf("unknown: %q", got)
	}
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if got := w.Why(short, "c"); got != "" {
		t.Errorf("c, which is well: %q", got)
	}
}

// What was wrong with a pod before says nothing about why it is lost now: an end of
// its container from before, a worker that is slow to be ready.
func TestWhyIsNoOldReason(t *testing.T) {
	s := newAPIServer(t)
	restarted := corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
		{Name: "worker", State: running, RestartCount: 1, LastTerminationState: terminated("OOMKilled", 137)}}}
	s.set("a", &restarted)
	w := watch(t, s)
	testkit.Eventually(t, "the pod to be known", func() bool { return len(w.Missing()) == 1 })
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if got := w.Why(short, "a"); got != "" {
		t.Errorf("%q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	why := make(chan string)
	go func() { why <- w.Why(ctx, "a") }()
	again := *restarted.DeepCopy()
	again.ContainerStatuses[0].State = terminated("Error", 1)
	again.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.Now()
	s.set("a", &again)
	if got := <-why; got != "Error, exit code 1" {
		t.Errorf("%q", got)
	}
	// It is back, and somebody notices only now.
	back := *again.DeepCopy()
	back.ContainerStatuses[0].LastTerminationState, back.ContainerStatuses[0].State = again.ContainerStatuses[0].State, running
	back.ContainerStatuses[0].RestartCount, back.Conditions = 2, ready.Conditions
	s.set("a", &back)
	testkit.Eventually(t, "the pod to be well", func() bool { return len(w.Missing()) == 0 })
	if got := w.Why(ctx, "a"); got != "Error, exit code 1" {
		t.Errorf("afterwards: %q", got)
	}
}

// Failed pods stay until somebody deletes them: one is counted when it fails, not when
// a rendezvous finds it, nor when its message changes.
func TestFailedPodIsCountedOnce(t *testing.T) {
	s := newAPIServer(t)
	evicted := corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "low on memory"}
	s.set("old", &evicted)
	s.set("a", &ready)
	w := watch(t, s)
	testkit.Eventually(t, "one to be missing", func() bool { return len(w.Missing()) == 1 })
	s.set("a", &evicted)
	testkit.Eventually(t, "two to be missing", func() bool { return len(w.Missing()) == 2 })
	evicted.Message = "low on disk"
	s.set("a", &evicted)
	testkit.Eventually(t, "the message to change", func() bool { return w.Missing()[0].Reason == "Evicted: low on disk" })
	if n := testutil.ToFloat64(w.config.Metrics.ends["Evicted"]); n != 1 {
		t.Errorf("%g evictions, want 1", n)
	}
}

// A watch that breaks off, as at a restart of the API server: what happened meanwhile
// is known after the next.
func TestWatchBreaksOff(t *testing.T) {
	s := newAPIServer(t)
	s.set("a", &ready)
	s.set("b", &ready)
	w := watch(t, s)
	testkit.Eventually(t, "the pods to be known", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.pods) == 2 })
	s.Answer(http.StatusServiceUnavailable)
	s.CloseClientConnections()
	s.set("a", &oom)
	s.set("b", nil)
	s.Answer(0)
	testkit.Eventually(t, "a to be missing", func() bool { return fmt.Sprint(w.Missing()) != "[]" })
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	if got := w.Why(ctx, "b"); got != "the pod was deleted" {
		t.Errorf("b: %q", got)
	}
}

// Without the right to watch there is one line in the log, and everything else goes
// on; with it, the watch comes to life.
func TestWithoutTheRightToWatch(t *testing.T) {
	s := newAPIServer(t)
	s.set("b", &noRoom)
	s.Answer(http.StatusForbidden)
	w := watch(t, s)
	testkit.Eventually(t, "a complaint", func() bool { return w.logs.Len() > 0 })
	line := w.logs.All()[0]
	if !strings.Contains(line.Message, "allow get, list, watch of pods") || line.ContextMap()["namespace"] != "ns" {
		t.Errorf("%+v", line)
	}
	s.Answer(0)
	testkit.Eventually(t, "b to be missing", func() bool { return len(w.Missing()) == 1 })
	if n := w.logs.Len(); n != 1 {
		t.Errorf("%d lines", n)
	}
}
