package scaler

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// apiServer is as much of an API server as scaling one Deployment needs.
type apiServer struct {
	*httptest.Server
	t *testing.T

	mu         sync.Mutex
	deployment appsv1.Deployment
	version    int
	status     int           // answered in the place of everything, if not 0
	silent     chan struct{} // nothing is answered until it is closed, if not nil
	patches    []string
	writes     []string
	race       func() // runs before a scale is looked at
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{t: t, version: 7}
	s.deployment = appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "future-worker", Namespace: "ns", UID: "uid", Generation: 1},
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	silent := s.silent
	s.mu.Unlock()
	if silent != nil {
		select {
		case <-silent:
		case <-r.Context().Done():
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if s.status != 0 {
		refuse(w, s.status)
		return
	}
	switch what := r.Method + " " + r.URL.Path; {
	case what == "GET /apis/apps/v1/namespaces/ns/deployments/future-worker":
		s.write(w, s.shown())
	case what == "PUT /apis/apps/v1/namespaces/ns/deployments/future-worker/scale":
		s.scale(w, body)
	case what == "GET /api/v1/namespaces/ns/events":
		list := corev1.EventList{TypeMeta: metav1.TypeMeta{Kind: "EventList", APIVersion: "v1"}}
		if selector := r.URL.Query().Get("fieldSelector"); selector == "involvedObject.kind=Pod,reason=TriggeredScaleUp" {
			list.Items = []corev1.Event{{InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "a"}, Message: "pod triggered scale-up"}}
		}
		s.write(w, list)
	case strings.HasPrefix(what, "PATCH /api/v1/namespaces/ns/pods/"):
		if r.Header.Get("Content-Type") != "application/merge-patch+json" {
			s.t.Errorf("patch of %s", r.Header.Get("Content-Type"))
		}
		name := strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/ns/pods/")
		s.patches = append(s.patches, name+" "+string(body))
		if name == "gone" {
			refuse(w, http.StatusNotFound)
			return
		}
		s.write(w, corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name}})
	default:
		s.t.Errorf("it asked for %s", what)
		refuse(w, http.StatusNotFound)
	}
}

func (s *apiServer) shown() appsv1.Deployment {
	d := s.deployment
	d.ResourceVersion = fmt.Sprint(s.version)
	return d
}

func (s *apiServer) write(w http.ResponseWriter, object any) {
	if err := json.NewEncoder(w).Encode(object); err != nil {
		s.t.Error(err)
	}
}

var reasons = map[int]metav1.StatusReason{
	http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusNotFound: metav1.StatusReasonNotFound,
	http.StatusConflict: metav1.StatusReasonConflict, http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable,
	http.StatusUnprocessableEntity: metav1.StatusReasonInvalid,
}

func refuse(w http.ResponseWriter, status int) { testkit.Refuse(w, status, string(reasons[status])) }

// scale does what the API server does: the version and the identity are preconditions.
func (s *apiServer) scale(w http.ResponseWriter, body []byte) {
	if s.race != nil {
		race := s.race
		s.race = nil
		race()
	}
	var scale autoscalingv1.Scale
	if err := json.Unmarshal(body, &scale); err != nil || scale.Kind != "Scale" || scale.APIVersion != "autoscaling/v1" || scale.Name != "future-worker" {
		s.t.Errorf("%v: %s", err, body)
	}
	if scale.ResourceVersion != fmt.Sprint(s.version) || scale.UID != s.deployment.UID {
		refuse(w, http.StatusConflict)
		return
	}
	s.writes = append(s.writes, fmt.Sprint(scale.Spec.Replicas))
	s.set(scale.Spec.Replicas)
	s.write(w, scale)
}

// set is a change of the specification that the controllers carry out at once.
func (s *apiServer) set(replicas int32) {
	s.version++
	s.deployment.Generation++
	s.deployment.Spec.Replicas = &replicas
	s.deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: s.deployment.Generation, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas,
	}
}

func (s *apiServer) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *apiServer) replicas() int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.deployment.Spec.Replicas
}

func newKubernetes(t *testing.T, s *apiServer) *Kubernetes {
	t.Helper()
	k, err := NewKubernetes(&rest.Config{Host: s.URL}, "ns")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestReadDeployment(t *testing.T) {
	s := newAPIServer(t)
	k := newKubernetes(t, s)
	three := int32(3)
	for name, tc := range map[string]struct {
		change func(d *appsv1.Deployment)
		want   Deployment
	}{
		"as it was made": {func(*appsv1.Deployment) {}, Deployment{Replicas: 1}},
		"at work": {func(d *appsv1.Deployment) {
			d.Spec.Replicas = &three
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 3, UpdatedReplicas: 2, ReadyReplicas: 1}
		}, Deployment{Replicas: 3, Pods: 3, Updated: 2, Ready: 1, Observed: true}},
		"paused": {func(d *appsv1.Deployment) { d.Spec.Paused = true }, Deployment{Replicas: 1, Paused: true}},
		"a quota": {func(d *appsv1.Deployment) {
			d.Status.Conditions = []appsv1.DeploymentCondition{
				{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, Reason: "MinimumReplicasUnavailable"},
				{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "exceeded quota"}}
		}, Deployment{Replicas: 1, Failure: "FailedCreate", FailureMessage: "exceeded quota"}},
		"a quota of before": {func(d *appsv1.Deployment) {
			d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionFalse, Reason: "FailedCreate"}}
		}, Deployment{Replicas: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.deployment
			tc.change(&s.deployment)
			defer func() { s.deployment = before }()
			tc.want.UID, tc.want.Version = "uid", "7"
			if got, err := k.Deployment(t.Context(), "future-worker"); err != nil || got != tc.want {
				t.Errorf("%+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func TestScaleAndMark(t *testing.T) {
	s := newAPIServer(t)
	k := newKubernetes(t, s)
	read, err := k.Deployment(t.Context(), "future-worker")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Scale(t.Context(), "future-worker", read, 0); err != nil || s.replicas() != 0 {
		t.Errorf("%v, %d replicas", err, s.replicas())
	}
	// What was read then is old now.
	if err := k.Scale(t.Context(), "future-worker", read, 4); failure(err) != conflict || s.replicas() != 0 {
		t.Errorf("%v, %d replicas", err, s.replicas())
	}
	for _, call := range []func(context.Context, string) error{k.Mark, k.Unmark} {
		for _, pod := range []string{"a", "gone"} {
			if err := call(t.Context(), pod); err != nil {
				t.Error(err)
			}
		}
	}
	if got := strings.Join(s.patches, "\n"); got != `a {"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":"-2147483647"}}}
gone {"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":"-2147483647"}}}
a {"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":null}}}
gone {"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":null}}}` {
		t.Errorf("patches:\n%s", got)
	}
	if said, err := k.NewNodes(t.Context()); err != nil || fmt.Sprint(said) != "map[a:pod triggered scale-up]" {
		t.Errorf("nodes: %v, %v", said, err)
	}
	for status, want := range map[int]string{
		http.StatusForbidden: forbidden, http.StatusUnauthorized: forbidden, http.StatusNotFound: notFound, http.StatusConflict: conflict,
		http.StatusServiceUnavailable: unreachable, http.StatusInternalServerError: unreachable, http.StatusGatewayTimeout: unreachable,
		http.StatusUnprocessableEntity: failed,
	} {
		s.locked(func() { s.status = status })
		if _, err := k.Deployment(t.Context(), "future-worker"); failure(err) != want {
			t.Errorf("%d: %v is %s, want %s", status, err, failure(err), want)
		}
	}
}

// An API server that takes requests and does not answer, or is not there.
func TestSilentAPIServerIsUnreachable(t *testing.T) {
	s := newAPIServer(t)
	k := newKubernetes(t, s)
	s.locked(func() { s.silent = make(chan struct{}) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := k.Deployment(ctx, "future-worker"); failure(err) != unreachable {
		t.Errorf("silent: %v is %s", err, failure(err))
	}
	close(s.silent)
	s.Close()
	if _, err := k.Deployment(t.Context(), "future-worker"); failure(err) != unreachable {
		t.Errorf("closed: %v is %s", err, failure(err))
	}
}

// fixed is a pool and the pods behind it, all of which are ready.
type fixed struct {
	mu       sync.Mutex
	wanted   int
	agents   []string
	cordoned []string
}

func (f *fixed) locked(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fixed) Agents(string) (names []string) {
	f.locked(func() { names = append(names, f.agents...) })
	return names
}
func (f *fixed) Idle(group string) []string { return f.Agents(group) }
func (f *fixed) Cordon(agent string) bool {
	f.locked(func() { f.cordoned = append(f.cordoned, agent) })
	return true
}
func (f *fixed) Uncordon(string) {}
func (f *fixed) Wanted() (all map[string]int) {
	f.locked(func() { all = map[string]int{"": f.wanted, "default": 1} })
	return all
}
func (f *fixed) Group(string) (all []pods.Status) {
	for _, name := range f.Agents("") {
		all = append(all, pods.Status{Name: name, Node: "n", Phase: corev1.PodRunning, Ready: true})
	}
	return all
}

// The loop as a whole, in real time: demand that is announced, a conflict, an API server
// that fails for a moment, pods that go.
func TestDemandBecomesReplicas(t *testing.T) {
	s := newAPIServer(t)
	s.set(0)
	f := &fixed{}
	config := standard()
	config.Idle = time.Second
	scaler := New(Config{
		Log: zap.NewNop(), Metrics: NewMetrics(prometheus.NewRegistry()), Groups: []Group{config},
		Cluster: newKubernetes(t, s), Pods: f, Pool: f, Wanted: f.Wanted,
	})
	testkit.Background(t, scaler.Run)
	want := func(replicas int32) {
		t.Helper()
		testkit.Eventually(t, fmt.Sprint(replicas, " replicas"), func() bool { return s.replicas() == replicas })
	}
	want(1) // for what is wanted of the group by name
	s.locked(func() {
		s.race = func() { s.version++ } // a status that changes between reading and writing
	})
	f.locked(func() { f.wanted = 3 })
	scaler.Poke()
	scaler.Poke()
	want(4)

	s.locked(func() { s.status = http.StatusServiceUnavailable })
	f.locked(func() { f.wanted = 4 })
	scaler.Poke()
	testkit.Eventually(t, "the trouble to be told", func() bool {
		return strings.HasPrefix(scaler.Explain("default"), "0 of 5 pods run; Unreachable: ")
	})
	s.locked(func() { s.status = 0 })
	want(5)

	f.locked(func() { f.wanted, f.agents = 0, []string{"a", "b", "c", "d", "e"} })
	want(1)
	f.locked(func() {
		if len(f.cordoned) != 4 {
			t.Errorf("cordoned %v", f.cordoned)
		}
	})
	s.locked(func() {
		if len(s.patches) != 4 {
			t.Errorf("patches %v", s.patches)
		}
		if got := fmt.Sprint(s.writes); got != "[1 4 5 1]" {
			t.Errorf("replicas were set to %s", got)
		}
	})
}
