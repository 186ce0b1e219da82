// Package pods watches the worker pods of a release, so that an R error, the log and
// the metrics can say what Kubernetes knows of a worker that is missing: that its
// image cannot be pulled, that no node has room for it, that it was killed for memory. It
// also tells whether an agent is in the pod that it names.
package pods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// remembered is how long it is known why a pod that is gone went: the rendezvous
	// may notice the loss of a silent worker only after 14 s.
	remembered = 5 * time.Minute
	// recently is how long the end of a container explains that a connection to it is
	// lost: a silent one is noticed after 14 s.
	recently = 17 * time.Second
	// complaintPace is how often an API server that does not answer is logged.
	complaintPace = time.Minute
)

// Config is what a Watcher needs.
type Config struct {
	Log       *zap.Logger
	Metrics   *Metrics
	API       *rest.Config // how to reach the API server; InCluster
	Namespace string
	Selector  labels.Selector // of the worker pods
}

// InCluster is how a container reaches its own cluster's API server, and its
// namespace. It fails outside a cluster, or without a service account's token.
func InCluster() (*rest.Config, string, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, "", fmt.Errorf("not in a Kubernetes pod with a service account's token: %w", err)
	}
	namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return nil, "", fmt.Errorf("the service account's namespace: %w", err)
	}
	return config, strings.TrimSpace(string(namespace)), nil
}

// Pod is a worker pod that does not work.
type Pod struct {
	Name   string `json:"name"`
	Reason string `json:"reason"` // see Explain
}

// Watcher knows the worker pods. Its methods may be called concurrently.
type Watcher struct {
	config Config
	client rest.Interface

	mu         sync.Mutex
	listed     bool          // all pods that there were at the start are in pods
	watching   *stream       // the watch that the API server answers, nil while it does not
	current    chan struct{} // closed while there are both
	pods       map[string]state
	changed    chan struct{} // closed, and made anew, when pods changes
	complained time.Time
}

// state is what is known of one pod.
type state struct {
	Status
	uid    string
	group  string
	from   []netip.Addr // its addresses
	lost   bool         // Reason says why its workers are no more
	failed string       // the pod's own status.reason, if it has one
	ends   int32        // containers that have ended, restarts included
	last   string       // how the last one did
	ended  time.Time    // when that was seen, zero if it was before the pod was known
	gone   time.Time
}

// New makes a Watcher; Run starts it.
func New(config Config) (*Watcher, error) {
	client, err := newClient(config.API)
	if err != nil {
		return nil, err
	}
	return &Watcher{config: config, client: client, current: make(chan struct{}), pods: make(map[string]state), changed: make(chan struct{})}, nil
}

// newScheme knows core/v1 alone: client-go's own scheme knows every kind there is,
// which costs a program megabytes at its start.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme)) // fails for programming errors alone
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	return scheme
}

func newClient(config *rest.Config) (*rest.RESTClient, error) {
	api := rest.CopyConfig(config)
	api.APIPath, api.GroupVersion = "/api", &corev1.SchemeGroupVersion
	api.NegotiatedSerializer = serializer.NewCodecFactory(newScheme()).WithoutConversion()
	api.UserAgent = "rendezvous"
	client, err := rest.RESTClientFor(api)
	if err != nil {
		return nil, fmt.Errorf("client of the API server %s: %w", api.Host, err)
	}
	return client, nil
}

// Run watches until ctx ends. What fails is tried again without end.
func (w *Watcher) Run(ctx context.Context) error {
	source := cache.NewFilteredListWatchFromClient(w.client, "pods", w.config.Namespace, func(options *metav1.ListOptions) {
		options.LabelSelector = w.config.Selector.String()
	})
	var running sync.WaitGroup
	informer := cache.NewSharedInformer(w.observed(source, &running), &corev1.Pod{}, 0)
	if err := informer.SetTransform(strip); err != nil {
		return err
	}
	if err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { w.complain(err) }); err != nil {
		return err
	}
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.note(object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { w.note(object.(*corev1.Pod)) },
		DeleteFunc: w.forget,
	})
	if err != nil {
		return err
	}
	running.Go(func() {
		select {
		case <-handler.HasSyncedChecker().Done():
			w.hear(func() { w.listed = true })
		case <-ctx.Done():
		}
	})
	informer.RunWithContext(ctx)
	running.Wait()
	return ctx.Err()
}

// note takes over what became of a pod.
func (w *Watcher) note(pod *corev1.Pod) {
	now := state{Status: status(pod), uid: string(pod.UID), group: group(pod), from: addresses(pod), lost: lost(pod), failed: pod.Status.Reason}
	var end *corev1.ContainerStateTerminated
	now.ends, end = lastEnd(pod)
	if end != nil {
		now.last = OneLine(ended(end))
	}
	w.mu.Lock()
	before, known := w.pods[pod.Name]
	if before.uid != now.uid {
		before, known = state{}, false
	}
	now.ended = before.ended
	another := known && now.ends > before.ends && end != nil
	if another {
		now.ended = time.Now()
	}
	w.pods[pod.Name] = now
	w.stir()
	w.mu.Unlock()

	log := w.config.Log.With(zap.String("pod", pod.Name))
	if another {
		w.config.Metrics.ended(end.Reason)
		tell := log.Warn
		if end.ExitCode == 0 {
			tell = log.Info
		}
		tell("worker pod's container ended", zap.String("reason", now.last))
	}
	// Pods that had failed before they were first seen are no news: they stay listed
	// until somebody deletes them, through every restart of the rendezvous.
	if known && now.failed != "" && now.failed != before.failed {
		w.config.Metrics.ended(now.failed)
		log.Warn("worker pod failed", zap.String("reason", now.Reason))
	}
}

// lastEnd counts how often a container of pod has ended, and has the last of these.
func lastEnd(pod *corev1.Pod) (ends int32, last *corev1.ContainerStateTerminated) {
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		ends += c.RestartCount
		if c.State.Terminated != nil {
			ends++
		}
		for _, t := range []*corev1.ContainerStateTerminated{c.LastTerminationState.Terminated, c.State.Terminated} {
			if t != nil && (last == nil || !t.FinishedAt.Before(&last.FinishedAt)) {
				last = t
			}
		}
	}
	return ends, last
}

// forget takes over that a pod is gone.
func (w *Watcher) forget(object any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, known := w.pods[pod.Name]
	if !known || s.uid != string(pod.UID) {
		return
	}
	if !s.lost || s.Reason == "Terminating" {
		s.Reason = "the pod was deleted"
	}
	s.lost, s.gone = true, time.Now()
	w.pods[pod.Name] = s
	w.stir()
}

// stir wakes who waits in Why and Verify, and forgets the pods that have been gone for long.
// Called with the lock held.
func (w *Watcher) stir() {
	maps.DeleteFunc(w.pods, func(_ string, s state) bool { return !s.gone.IsZero() && time.Since(s.gone) > remembered })
	close(w.changed)
	w.changed = make(chan struct{})
}

// complain logs, now and then, that the API server does not answer as it should.
func (w *Watcher) complain(err error) {
	if errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // part of watching
	}
	w.mu.Lock()
	due := time.Since(w.complained) > complaintPace
	if due {
		w.complained = time.Now()
	}
	w.mu.Unlock()
	if due {
		w.config.Log.Warn("cannot watch the worker pods, R errors do not say why one is missing, and agents of pods that are not known are let in by their certificates alone: allow get, list, watch of pods, or see whether the API server answers",
			zap.String("namespace", w.config.Namespace), zap.Stringer("selector", w.config.Selector), zap.Error(err))
	}
}

// Missing is every worker pod that is not ready, in the order of their names.
func (w *Watcher) Missing() []Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	var missing []Pod
	for name, s := range w.pods {
		if s.gone.IsZero() && s.Reason != "" {
			missing = append(missing, Pod{Name: name, Reason: s.Reason})
		}
	}
	slices.SortFunc(missing, func(a, b Pod) int { return cmp.Compare(a.Name, b.Name) })
	return missing
}

// Why is what became of the pod called name, whose connection has just been lost:
// it waits until that is known, or ctx ends. "" says that nothing is known, or that
// the pod is well.
func (w *Watcher) Why(ctx context.Context, name string) string {
	for {
		w.mu.Lock()
		s, changed := w.pods[name], w.changed
		w.mu.Unlock()
		switch {
		case s.uid == "" || !s.gone.IsZero() && time.Since(s.gone) > remembered:
			return ""
		case !s.ended.IsZero() && time.Since(s.ended) < recently:
			return s.last
		case s.lost:
			return s.Reason
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ""
		}
	}
}
