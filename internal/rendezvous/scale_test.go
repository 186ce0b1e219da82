package rendezvous

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

// cluster has one Deployment, without controllers.
type cluster struct {
	mu       sync.Mutex
	replicas int
	marked   []string
}

func (c *cluster) Deployment(_ context.Context, name string) (scaler.Deployment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name != "future-worker" {
		return scaler.Deployment{}, errors.New("no such Deployment")
	}
	return scaler.Deployment{UID: "1", Replicas: c.replicas, Pods: c.replicas, Updated: c.replicas, Observed: true}, nil
}

func (c *cluster) Scale(_ context.Context, _ string, _ scaler.Deployment, replicas int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replicas = replicas
	return nil
}

func (c *cluster) Mark(_ context.Context, pod string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marked = append(c.marked, pod)
	return nil
}

func (c *cluster) Unmark(context.Context, string) error                { return nil }
func (c *cluster) NewNodes(context.Context) (map[string]string, error) { return nil, nil }

// podServer has two worker pods that are ready.
func podServer(t *testing.T) *testkit.APIServer[corev1.Pod] {
	server := testkit.NewAPIServer[corev1.Pod](t, "v1", "Pod")
	for _, name := range []string{"pod-a", "pod-b"} {
		server.Change(name, func(_ corev1.Pod, version string) (corev1.Pod, bool) {
			return corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: name, UID: "1", ResourceVersion: version, Labels: map[string]string{"group": "default"}},
				Spec:       corev1.PodSpec{NodeName: "n"},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "127.0.0.1"}},
					Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
			}, true
		})
	}
	return server
}

// The scaler sees the pool and the pods, has what is idle leave, and shows at each of the
// interfaces.
func TestScalerSeesPoolAndPods(t *testing.T) {
	t.Parallel()
	group, err := scaler.ParseGroup("deployment=future-worker,min=1,max=4,idle=1s")
	if err != nil {
		t.Fatal(err)
	}
	kubernetes, server := &cluster{replicas: 2}, podServer(t)
	config := configuration(t, nowhere)
	config.Scale, config.Cluster = []scaler.Group{group}, kubernetes
	config.Pods = func(metrics *pods.Metrics) (*pods.Watcher, error) {
		return pods.New(pods.Config{Log: zap.NewNop(), Metrics: metrics, API: &rest.Config{Host: server.URL}, Namespace: "ns", Selector: labels.Everything()})
	}
	client, _ := serve(t, config)
	s := &system{listener: config.Agents}
	for _, name := range []string{"pod-a", "pod-b"} {
		s.join(t, nil, name)
	}
	for _, want := range []struct {
		listener   net.Listener
		path, want string
	}{
		{config.API, "/v1/state", `"scaling":[{"group":"default","deployment":"future-worker","min":1,"max":4,"slots":1,"wanted":0,"need":1,"pods":1,"ready":2`},
		{config.Admin, "/metrics", `rendezvous_scale_pods{group="default",kind="spec"} 1`},
		{config.Admin, "/metrics", `rendezvous_scale_changes_total{direction="down",group="default"} 1`},
		{config.Admin, "/metrics", `rendezvous_workers_wanted{group="default"} 0`},
	} {
		await(t, client, "http://"+want.listener.Addr().String()+want.path, want.want)
	}
	kubernetes.mu.Lock()
	defer kubernetes.mu.Unlock()
	if len(kubernetes.marked) != 1 {
		t.Errorf("marked: %v", kubernetes.marked)
	}
}
