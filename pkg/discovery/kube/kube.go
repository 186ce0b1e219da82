package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/psock-runtime/psock-runtime/pkg/discovery"
)

const (
	// form is what specifications look like, and prefix how they begin.
	form   = prefix + "SERVICE:PORT"
	prefix = "kubernetes:"
)

// namespaceFile is where a container finds the namespace of its service account.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

type source struct {
	service, port string // port is a name or a number
	api           *rest.Config
	namespace     string
	report        func(error)
	sending       sync.Mutex // held while the present set is looked up and sent
}

// Option changes how a source works.
type Option func(*source)

// WithAPI sets how to reach the API server, and the Service's namespace; otherwise
// they are those of the container's service account.
func WithAPI(api *rest.Config, namespace string) Option {
	return func(s *source) { s.api, s.namespace = api, namespace }
}

// Kind has [discovery.Parse] know kubernetes:SERVICE:PORT, where PORT is a name or a
// number of the Service's target ports:
//
//	discovery.Parse(spec, discovery.WithKind(kube.Kind()))
//
// Parse then fails outside a pod with a service account, unless [WithAPI] is given.
func Kind(options ...Option) discovery.Kind {
	return discovery.Kind{Form: form, Parse: func(spec string, report func(error)) (discovery.Source, error) {
		return parse(spec, report, options)
	}}
}

func parse(spec string, report func(error), options []Option) (discovery.Source, error) {
	service, port, found := strings.Cut(strings.TrimPrefix(spec, prefix), ":")
	if !strings.HasPrefix(spec, prefix) || !found {
		return nil, fmt.Errorf("discovery %q: write %s", spec, form)
	}
	if wrong := validation.IsDNS1035Label(service); len(wrong) > 0 {
		return nil, fmt.Errorf("discovery %q: %q is no name of a Service: %s", spec, service, wrong[0])
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		if wrong := validation.IsValidPortName(port); len(wrong) > 0 {
			return nil, fmt.Errorf("discovery %q: port %q is neither a number from 1 to 65535 nor a port's name: %s", spec, port, wrong[0])
		}
	}
	s := &source{service: service, port: port, report: report}
	for _, option := range options {
		option(s)
	}
	if err := s.account(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *source) String() string { return prefix + s.service + ":" + s.port }

// account fills in what the container's service account says. It fails outside a pod.
func (s *source) account() error {
	if s.api != nil {
		return nil
	}
	api, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("discovery %s: not in a Kubernetes pod with a service account's token, use dns:NAME:PORT: %w", s, err)
	}
	namespace, err := os.ReadFile(namespaceFile)
	if err != nil {
		return fmt.Errorf("discovery %s: the service account's namespace: %w", s, err)
	}
	s.api, s.namespace = api, strings.TrimSpace(string(namespace))
	return nil
}

// client is a REST client that knows EndpointSlices alone: client-go's own scheme knows
// every kind there is, which costs each program megabytes at its start.
// Whoever is done with it closes the idle connections of the http.Client.
func (s *source) client() (*rest.RESTClient, *http.Client, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(discoveryv1.AddToScheme(scheme)) // fails for programming errors alone
	metav1.AddToGroupVersion(scheme, discoveryv1.SchemeGroupVersion)
	api := rest.CopyConfig(s.api)
	api.APIPath, api.GroupVersion = "/apis", &discoveryv1.SchemeGroupVersion
	api.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if api.UserAgent == "" {
		api.UserAgent = "worker-agent"
	}
	web, err := rest.HTTPClientFor(api)
	if err != nil {
		return nil, nil, fmt.Errorf("discovery %s: client of the API server %s: %w", s, api.Host, err)
	}
	client, err := rest.RESTClientForConfigAndClient(api, web)
	if err != nil {
		return nil, nil, fmt.Errorf("discovery %s: client of the API server %s: %w", s, api.Host, err)
	}
	return client, web, nil
}

// Run watches, as discovery.Source says.
func (s *source) Run(ctx context.Context, updates chan<- []string) error {
	client, web, err := s.client()
	if err != nil {
		return err
	}
	// Its own CloseIdleConnections does not see through client-go's wrappers.
	defer utilnet.CloseIdleConnectionsFor(web.Transport)
	sets := make(chan []string)
	informer, err := s.informer(ctx, client, sets)
	if err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { informer.RunWithContext(gctx); return gctx.Err() })
	group.Go(func() error { return s.first(gctx, informer, sets) })
	group.Go(func() error { return discovery.Deliver(gctx, sets, updates) })
	_ = group.Wait() // each ends with the context only
	return ctx.Err()
}

// informer makes one that sends the whole set with each change.
func (s *source) informer(ctx context.Context, client *rest.RESTClient, sets chan<- []string) (cache.SharedInformer, error) {
	slices := cache.NewFilteredListWatchFromClient(client, "endpointslices", s.namespace, func(options *metav1.ListOptions) {
		options.LabelSelector = labels.Set{discoveryv1.LabelServiceName: s.service}.String()
	})
	informer := cache.NewSharedInformer(slices, &discoveryv1.EndpointSlice{}, 0)
	changed := func() {
		if !informer.HasSynced() {
			return // first sends what there is then
		}
		s.send(ctx, informer, sets)
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed() },
		UpdateFunc: func(any, any) { changed() },
		DeleteFunc: func(any) { changed() },
	})
	if err != nil {
		return nil, fmt.Errorf("discovery %s: %w", s, err)
	}
	err = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return // part of watching
		}
		s.report(fmt.Errorf("discovery %s: cannot list and watch the endpointslices of namespace %s: allow get, list, watch of them, or see whether the API server answers: %w", s, s.namespace, err))
	})
	if err != nil {
		return nil, fmt.Errorf("discovery %s: %w", s, err)
	}
	return informer, nil
}

// first sends the set that is there when the informer has listed, even an empty one.
func (s *source) first(ctx context.Context, informer cache.SharedInformer, sets chan<- []string) error {
	if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		s.send(ctx, informer, sets)
	}
	<-ctx.Done()
	return ctx.Err()
}

// send sends what there is. One at a time does: nobody sends what is older.
func (s *source) send(ctx context.Context, informer cache.SharedInformer, sets chan<- []string) {
	s.sending.Lock()
	defer s.sending.Unlock()
	var slices []*discoveryv1.EndpointSlice
	for _, object := range informer.GetStore().List() {
		if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
			slices = append(slices, slice)
		}
	}
	select {
	case sets <- addresses(slices, s.port):
	case <-ctx.Done():
	}
}

// addresses are those of the endpoints that serve. One that is about to go counts only
// while there is no other: it refuses new workers soon, and what takes its place is
// better.
func addresses(slices []*discoveryv1.EndpointSlice, port string) []string {
	var staying, going []string
	for _, slice := range slices {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, number := range ports(slice, port) {
			for _, endpoint := range slice.Endpoints {
				if !serves(endpoint.Conditions) {
					continue
				}
				into := &staying
				if terminating := endpoint.Conditions.Terminating; terminating != nil && *terminating {
					into = &going
				}
				for _, address := range endpoint.Addresses {
					*into = append(*into, net.JoinHostPort(address, number))
				}
			}
		}
	}
	if len(staying) == 0 {
		return going
	}
	return staying
}

// serves: a condition that is not known counts as true, says the API.
func serves(c discoveryv1.EndpointConditions) bool {
	if c.Serving != nil {
		return *c.Serving
	}
	return c.Ready == nil || *c.Ready
}

// ports are the numbers of a slice's TCP ports that port, a name or a number, means.
func ports(slice *discoveryv1.EndpointSlice, port string) []string {
	var numbers []string
	for _, p := range slice.Ports {
		if p.Port == nil || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		number := strconv.Itoa(int(*p.Port))
		if number == port || p.Name != nil && *p.Name == port {
			numbers = append(numbers, number)
		}
	}
	return numbers
}
