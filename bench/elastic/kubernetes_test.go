package elastic_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// How long things take on the cluster.
const (
	request = 5 * time.Millisecond // at the API server
	// pace and podsAtOnce: the controllers make and delete 200 pods a second. With its
	// default limits (20 requests a second) a controller manager is slower than all that is
	// to be seen here.
	pace       = 100 * time.Millisecond
	podsAtOnce = 20
	podsOnNode = 32
	// A pod is scheduled, its image is there, its agent and R start.
	leastStart, mostStart = 8 * time.Second, 16 * time.Second
	leaving               = time.Second
)

// kubernetes is one Deployment, its controllers and its pods, whose agents connect to
// the pool: as much of a cluster as a Scaler has to do with.
type kubernetes struct {
	t       *testing.T
	ctx     context.Context // ends the pods
	pool    *pool.Pool
	latency time.Duration // of a request
	quick   bool          // pods start at once
	running sync.WaitGroup

	mu         sync.Mutex
	replicas   int
	version    int
	generation int
	observed   int
	pods       map[string]*pod
	there      int   // pods that are not leaving
	ready      int   // of these
	nodes      []int // pods on each
	scales     int   // how often replicas was set
	torn       int   // pods that were deleted while a session had them
}

type pod struct {
	pods.Status
	made   time.Time
	on     int // its node
	agent  *agent
	cancel context.CancelFunc
}

func newKubernetes(t *testing.T, ctx context.Context, p *pool.Pool) *kubernetes {
	return &kubernetes{t: t, ctx: ctx, pool: p, latency: request, version: 1, pods: make(map[string]*pod)}
}

// Deployment implements scaler.Cluster.
func (k *kubernetes) Deployment(ctx context.Context, _ string) (scaler.Deployment, error) {
	if k.latency > 0 && !pause(ctx, k.latency) {
		return scaler.Deployment{}, ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return scaler.Deployment{
		UID: "1", Version: strconv.Itoa(k.version), Replicas: k.replicas, Pods: k.there, Updated: k.there, Ready: k.ready,
		Observed: k.observed == k.generation,
	}, nil
}

// Scale implements scaler.Cluster.
func (k *kubernetes) Scale(ctx context.Context, name string, read scaler.Deployment, replicas int) error {
	if k.latency > 0 && !pause(ctx, k.latency) {
		return ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if read.Version != strconv.Itoa(k.version) {
		return apierrors.NewConflict(schema.GroupResource{Group: "apps", Resource: "deployments"}, name, fmt.Errorf("it has changed"))
	}
	k.replicas = replicas
	k.version++
	k.generation++
	k.scales++
	return nil
}

// Mark implements scaler.Cluster.
func (k *kubernetes) Mark(ctx context.Context, name string) error {
	return k.annotate(ctx, name, "-2147483647")
}

// Unmark implements scaler.Cluster.
func (k *kubernetes) Unmark(ctx context.Context, name string) error { return k.annotate(ctx, name, "") }

func (k *kubernetes) annotate(ctx context.Context, name, cost string) error {
	if k.latency > 0 && !pause(ctx, k.latency) {
		return ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pods[name]; p != nil {
		p.Cost = cost
	}
	return nil
}

// NewNodes implements scaler.Cluster: there is room for all pods.
func (k *kubernetes) NewNodes(context.Context) (map[string]string, error) { return nil, nil }

// Group implements scaler.Pods, in the same way as pods.Watcher.
func (k *kubernetes) Group(string) []pods.Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]pods.Status, 0, len(k.pods))
	for _, p := range k.pods {
		all = append(all, p.Status)
	}
	return all
}

// control does what the controllers of Deployments and ReplicaSets do, until ctx ends.
func (k *kubernetes) control(ctx context.Context) {
	for pause(ctx, pace) {
		k.reconcile()
	}
}

func (k *kubernetes) reconcile() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.observed = k.generation
	most := podsAtOnce
	if k.quick {
		most = math.MaxInt
	}
	switch more := k.replicas - k.there; {
	case more > 0:
		for range min(more, most) {
			k.make()
		}
	case more < 0:
		for _, p := range k.order()[:min(-more, most)] {
			k.delete(p)
		}
	}
}

// make makes a pod and starts it. Called with the lock held.
func (k *kubernetes) make() *pod {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	suffix := make([]byte, 5)
	for i := range suffix {
		suffix[i] = letters[rand.IntN(len(letters))]
	}
	ctx, cancel := context.WithCancel(k.ctx)
	p := &pod{
		Status: pods.Status{Name: fmt.Sprintf("future-worker-7d4f9c6b5-%s", suffix), Phase: corev1.PodPending, Reason: "Pending"},
		made:   time.Now(), cancel: cancel, on: -1,
	}
	if k.pods[p.Name] != nil {
		cancel()
		return k.make()
	}
	k.pods[p.Name] = p
	k.there++
	k.version++
	start := leastStart + rand.N(mostStart-leastStart)
	if k.quick {
		start = 0
	}
	k.running.Go(func() { k.run(ctx, p, start) })
	return p
}

// run is a pod's life.
func (k *kubernetes) run(ctx context.Context, p *pod, start time.Duration) {
	defer k.forget(p)
	if !pause(ctx, start/8) {
		return
	}
	k.assign(p)
	if !pause(ctx, start-start/8) {
		return
	}
	a := connect(ctx, k.pool, p.Name, p.Node, &k.running)
	k.mu.Lock()
	p.agent = a
	if !p.Leaves {
		p.Phase, p.Ready, p.Reason = corev1.PodRunning, true, ""
		k.ready++
		k.version++
	}
	k.mu.Unlock()
	<-ctx.Done()
	a.leave()
	if !k.quick {
		pause(k.ctx, leaving)
	}
}

// assign gives a pod the first node that has room.
func (k *kubernetes) assign(p *pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p.on = slices.IndexFunc(k.nodes, func(n int) bool { return n < podsOnNode })
	if p.on < 0 {
		p.on = len(k.nodes)
		k.nodes = append(k.nodes, 0)
	}
	k.nodes[p.on]++
	p.Node, p.Reason = fmt.Sprintf("node-%03d", p.on), "ContainerCreating"
}

// order is the pods in the order in which a ReplicaSet deletes them. Called with the lock
// held.
func (k *kubernetes) order() []*pod {
	rank := func(p *pod) int {
		switch {
		case p.Node == "":
			return 0
		case p.Phase == corev1.PodPending:
			return 1
		case !p.Ready:
			return 2
		case p.Cost != "":
			return 3
		}
		return 4
	}
	all := make([]*pod, 0, k.there)
	for _, p := range k.pods {
		if !p.Leaves {
			all = append(all, p)
		}
	}
	if k.replicas == 0 {
		return all
	}
	slices.SortFunc(all, func(a, b *pod) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), b.made.Compare(a.made), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// delete ends a pod. Called with the lock held.
func (k *kubernetes) delete(p *pod) {
	if p.agent != nil && p.agent.isHeld() {
		k.torn++
	}
	if p.Ready {
		k.ready--
	}
	k.there--
	k.version++
	p.Leaves, p.Ready, p.Reason = true, false, "Terminating"
	p.cancel()
}

// settle does at once all that the controllers have to do.
func (k *kubernetes) settle() {
	for {
		k.reconcile()
		if replicas, there, _ := k.count(); replicas == there {
			return
		}
	}
}

func (k *kubernetes) forget(p *pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pods, p.Name)
	if p.on >= 0 {
		k.nodes[p.on]--
	}
}

// count is how many pods the Deployment is to have, how many there are, and how many of
// these are ready.
func (k *kubernetes) count() (replicas, there, ready int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.replicas, k.there, k.ready
}

// pause waits; false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
