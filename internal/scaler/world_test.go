package scaler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a cluster with one Deployment, its controllers, and the sessions that use its
// workers, in a time of its own. Controllers act when the time goes on.
type world struct {
	t        *testing.T
	mu       sync.Mutex
	now      time.Time
	scaler   *Scaler
	logs     *observer.ObservedLogs
	registry *prometheus.Registry

	// Of the Deployment.
	gone       bool
	uid        int
	version    int
	replicas   int
	generation int
	observed   int
	paused     bool
	quota      int // most pods, 0 for no bound

	pods    map[string]*worldPod
	next    int
	startup time.Duration // until a pod is ready
	nodes   []string      // none: no pod is scheduled
	stalled bool          // the controllers do nothing
	news    map[string]string
	reason  string // why pods do not become ready

	err   func(verb string) error // of requests; may be nil
	lost  func() bool             // a number was set, and the answer is lost; may be nil
	after func(verb string)       // runs when a request was answered; may be nil
	calls map[string]int

	wanted   int            // workers
	busy     map[string]int // workers in use, by agent
	cordoned map[string]bool
	slots    int
}

type worldPod struct {
	pods.Status
	silent       bool // its node is: not ready, for all that is known, and connected all the same
	made, leaves time.Time
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newWorld(t *testing.T, config Group) *world {
	t.Helper()
	log, logs := testkit.Logger()
	w := &world{
		t: t, now: start, logs: logs, registry: prometheus.NewRegistry(), version: 1, pods: make(map[string]*worldPod),
		startup: 5 * time.Second, nodes: []string{"n1", "n2"}, calls: make(map[string]int),
		busy: make(map[string]int), cordoned: make(map[string]bool), slots: config.Slots,
	}
	w.scaler = New(Config{
		Log: log, Metrics: NewMetrics(w.registry), Groups: []Group{config}, Cluster: w, Pods: w, Pool: w,
		Wanted: func() map[string]int { return map[string]int{"": w.wanted} },
	})
	return w
}

// standard is a group that the tests vary.
func standard() Group {
	return Group{Name: "default", Deployment: "future-worker", Max: 6, Slots: 1, Idle: time.Minute, Start: 10 * time.Minute}
}

func (w *world) request(verb string) error {
	w.calls[verb]++
	if w.err != nil {
		return w.err(verb)
	}
	return nil
}

func (w *world) answered(verb string) {
	if w.after != nil {
		w.after(verb)
	}
}

var deployments = schema.GroupResource{Group: "apps", Resource: "deployments"}

func (w *world) Deployment(_ context.Context, name string) (Deployment, error) {
	if err := w.request("get"); err != nil {
		return Deployment{}, err
	}
	if w.gone {
		return Deployment{}, apierrors.NewNotFound(deployments, name)
	}
	defer w.answered("get")
	d := Deployment{
		UID: fmt.Sprint(w.uid), Version: fmt.Sprint(w.version), Replicas: w.replicas,
		Observed: w.observed == w.generation, Paused: w.paused,
	}
	for _, pod := range w.pods {
		if !pod.Leaves {
			d.Pods++
			if pod.Ready {
				d.Ready++
			}
		}
	}
	d.Updated = d.Pods
	// A ReplicaSet's controller takes the failure back whenever it looks and does not try, as when
	// it waits to see the pods that it has made.
	if w.quota > 0 && w.replicas > w.quota && w.now.Second()%3 != 0 {
		d.Failure, d.FailureMessage = "FailedCreate", "exceeded quota: q"
	}
	return d, nil
}

func (w *world) Scale(_ context.Context, name string, read Deployment, replicas int) error {
	defer w.answered("scale")
	if err := w.request("scale"); err != nil {
		return err
	}
	if w.gone {
		return apierrors.NewNotFound(deployments, name)
	}
	if read.Version != fmt.Sprint(w.version) || read.UID != fmt.Sprint(w.uid) {
		return apierrors.NewConflict(deployments, name, fmt.Errorf("it has changed"))
	}
	w.set(replicas)
	if w.lost != nil && w.lost() {
		return errLost
	}
	return nil
}

var errLost = errors.New("http2: client connection lost")

// set is what 'kubectl scale' does.
func (w *world) set(replicas int) {
	w.replicas = replicas
	w.version++
	w.generation++
}

func (w *world) Mark(_ context.Context, pod string) error { return w.annotate(pod, markCost) }

func (w *world) Unmark(_ context.Context, pod string) error { return w.annotate(pod, "") }

func (w *world) annotate(pod, cost string) error {
	w.mu.Lock() // marks are made at the same time
	defer w.mu.Unlock()
	if err := w.request("patch"); err != nil {
		return err
	}
	if p := w.pods[pod]; p != nil {
		p.Cost = cost
	}
	return nil
}

func (w *world) NewNodes(context.Context) (map[string]string, error) {
	if err := w.request("events"); err != nil {
		return nil, err
	}
	return w.news, nil
}

func (w *world) Group(name string) []pods.Status {
	if name != "default" {
		w.t.Errorf("asked for the pods of %s", name)
	}
	var all []pods.Status
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		all = append(all, w.pods[name].Status)
	}
	return all
}

// connected reports whether a pod's agent is.
func (w *world) connected(name string) bool {
	pod := w.pods[name]
	return pod != nil && (pod.Ready || pod.silent)
}

func (w *world) Agents(string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		if w.connected(name) {
			names = append(names, name)
		}
	}
	return names
}

func (w *world) Idle(group string) (names []string) {
	for _, name := range w.Agents(group) {
		if w.busy[name] == 0 && !w.cordoned[name] {
			names = append(names, name)
		}
	}
	return names
}

func (w *world) Cordon(agent string) bool {
	if w.busy[agent] > 0 {
		return false
	}
	w.cordoned[agent] = true
	return true
}

func (w *world) Uncordon(agent string) { delete(w.cordoned, agent) }

// run lets time pass, a second at a time: the controllers act, the sessions take what
// there is, the scaler looks.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(time.Second)
		w.kubelet()
		if !w.stalled {
			w.controllers()
		}
		w.sessions()
		w.scaler.Step(context.Background(), w.now)
	}
}

// kubelet starts pods and ends them.
func (w *world) kubelet() {
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		pod := w.pods[name]
		switch {
		case pod.Leaves && !w.now.Before(pod.leaves):
			delete(w.pods, name)
			delete(w.busy, name)
		case pod.Leaves:
		case pod.silent:
			pod.Ready = false
		case pod.Node == "" && len(w.nodes) > 0:
			w.next++
			pod.Node, pod.Reason = w.nodes[w.next%len(w.nodes)], "ContainerCreating"
		case pod.Node != "" && w.reason != "" && !pod.Ready:
			pod.Reason = w.reason
		case pod.Node != "" && w.now.Sub(pod.made) >= w.startup:
			pod.Ready, pod.Phase, pod.Reason = true, corev1.PodRunning, ""
		}
	}
}

// controllers do what those of Deployments and ReplicaSets do.
func (w *world) controllers() {
	w.observed = w.generation
	var there []*worldPod
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		if !w.pods[name].Leaves {
			there = append(there, w.pods[name])
		}
	}
	slices.SortStableFunc(there, func(a, b *worldPod) int {
		return cmp.Or(cmp.Compare(class(a.Status), class(b.Status)), cmp.Compare(cost(a), cost(b)), b.made.Compare(a.made))
	})
	want := w.replicas
	if w.gone {
		want = 0
	}
	for _, pod := range there[:max(len(there)-want, 0)] {
		if w.busy[pod.Name] > 0 && !w.gone {
			w.t.Errorf("%s: %s is deleted, and in use", w.now.Sub(start), pod.Name)
		}
		pod.Leaves, pod.leaves, pod.Reason = true, w.now.Add(2*time.Second), "Terminating"
		w.version++
	}
	if w.quota > 0 {
		want = min(want, w.quota)
	}
	for i := len(there); i < want; i++ {
		w.next++
		name := fmt.Sprintf("future-worker-%03d", w.next)
		w.pods[name] = &worldPod{Status: pods.Status{Name: name, Phase: corev1.PodPending, Reason: "Pending"}, made: w.now}
		w.version++
	}
}

func cost(p *worldPod) int {
	if p.Cost == markCost {
		return -1
	}
	return 0
}

// sessions use as many workers as they want, of those that the pool hands out.
func (w *world) sessions() {
	used := w.used()
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		for used > w.wanted && w.busy[name] > 0 {
			w.busy[name]--
			used--
		}
	}
	for _, name := range w.Agents("") {
		for used < w.wanted && w.busy[name] < w.slots && !w.cordoned[name] && !w.pods[name].Leaves {
			w.busy[name]++
			used++
		}
	}
}

func (w *world) used() (sum int) {
	for _, n := range w.busy {
		sum += n
	}
	return sum
}

// expect fails unless the Deployment is to have this many replicas, and sessions use as
// many workers.
func (w *world) expect(when string, replicas, used int) {
	w.t.Helper()
	if w.replicas != replicas || w.used() != used {
		w.t.Errorf("%s: %d replicas and %d workers in use, want %d and %d; %s", when, w.replicas, w.used(), replicas, used, w.scaler.Explain("default"))
	}
}

// condition is the group's condition of a type, as "Reason: message", "" for none.
func (w *world) condition(kind ConditionType) string {
	for _, c := range w.scaler.Snapshot()[0].Conditions {
		if c.Type == kind {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}
