package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"github.com/psock-runtime/psock-runtime/pkg/discovery"
	"github.com/psock-runtime/psock-runtime/pkg/discovery/discoverytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// apiServer is as much of an API server as a watch of EndpointSlices needs.
type apiServer struct {
	*testkit.APIServer[discoveryv1.EndpointSlice]
}

func newAPIServer(t *testing.T) *apiServer {
	return &apiServer{testkit.NewAPIServer[discoveryv1.EndpointSlice](t, "discovery.k8s.io/v1", "EndpointSlice")}
}

// put makes, changes or, with nil, deletes a slice.
func (s *apiServer) put(name string, slice *discoveryv1.EndpointSlice) {
	s.Change(name, func(old discoveryv1.EndpointSlice, version string) (discoveryv1.EndpointSlice, bool) {
		if slice != nil {
			old = *slice
		}
		old.TypeMeta = metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"}
		old.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: "ns", ResourceVersion: version}
		return old, slice != nil
	})
}

func ptr[T any](v T) *T { return &v }

func slice(conditions discoveryv1.EndpointConditions, hosts ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("metrics"), Port: ptr(int32(7462))}, {Name: ptr("agents"), Port: ptr(int32(7460))}},
	}
	for _, host := range hosts {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{host}, Conditions: conditions})
	}
	return s
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Fixture {
		s := newAPIServer(t)
		s.put("s", slice(discoveryv1.EndpointConditions{Ready: ptr(true)}, "10.0.0.7"))
		source, err := discovery.Parse("kubernetes:future-rendezvous:agents", discovery.WithKind(Kind(WithAPI(&rest.Config{Host: s.URL}, "ns"))))
		if err != nil {
			t.Fatal(err)
		}
		return discoverytest.Fixture{
			Source: source, Initial: []string{"10.0.0.7:7460"}, Port: 7460,
			Set: func(hosts ...netip.Addr) {
				var names []string
				for _, host := range hosts {
					names = append(names, host.String())
				}
				s.put("s", slice(discoveryv1.EndpointConditions{Ready: ptr(true)}, names...))
			},
			// An event arrives in milliseconds, and nothing tells that it has: the
			// informer gets them in order, and so does whoever looks at it.
			Settle: func() { time.Sleep(300 * time.Millisecond) },
		}
	})
}

// follow runs a source, and returns its updates and its errors.
func follow(t *testing.T, s *apiServer) (<-chan []string, <-chan error) {
	reports := make(chan error, 100)
	kind := discovery.WithKind(Kind(WithAPI(&rest.Config{Host: s.URL}, "ns")))
	source, err := discovery.Parse("kubernetes:future-rendezvous:7460", kind, discovery.WithReport(func(err error) {
		select {
		case reports <- err:
		default:
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	updates, ended := make(chan []string), make(chan error, 1)
	go func() { ended <- source.Run(ctx, updates) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("Run returned %v", err)
		}
	})
	return updates, reports
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing comes")
		panic("unreachable")
	}
}

func expect(t *testing.T, updates <-chan []string, want ...string) {
	t.Helper()
	if got := receive(t, updates); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// A Service without endpoints is known to have none.
func TestNoEndpoints(t *testing.T) {
	updates, _ := follow(t, newAPIServer(t))
	expect(t, updates)
}

func TestSeveralSlices(t *testing.T) {
	s := newAPIServer(t)
	s.put("a", slice(discoveryv1.EndpointConditions{}, "10.0.0.1", "10.0.0.2"))
	updates, _ := follow(t, s)
	expect(t, updates, "10.0.0.1:7460", "10.0.0.2:7460")
	six := slice(discoveryv1.EndpointConditions{Ready: ptr(true)}, "fd00::1")
	six.AddressType = discoveryv1.AddressTypeIPv6
	s.put("b", six)
	expect(t, updates, "10.0.0.1:7460", "10.0.0.2:7460", "[fd00::1]:7460")
	s.put("a", nil)
	expect(t, updates, "[fd00::1]:7460")
	for _, query := range s.Queries() {
		if !strings.HasPrefix(query, "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices?") ||
			!strings.Contains(query, "labelSelector=kubernetes.io%2Fservice-name%3Dfuture-rendezvous") {
			t.Errorf("it asked for %s", query)
		}
	}
}

func TestConditions(t *testing.T) {
	endpoint := func(host string, c discoveryv1.EndpointConditions) *discoveryv1.EndpointSlice { return slice(c, host) }
	going := discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(true)}
	for name, tc := range map[string]struct {
		slices []*discoveryv1.EndpointSlice
		want   []string
	}{
		"ready":                {[]*discoveryv1.EndpointSlice{endpoint("10.0.0.1", discoveryv1.EndpointConditions{Ready: ptr(true)})}, []string{"10.0.0.1:7460"}},
		"not ready":            {[]*discoveryv1.EndpointSlice{endpoint("10.0.0.1", discoveryv1.EndpointConditions{Ready: ptr(false)})}, nil},
		"unknown":              {[]*discoveryv1.EndpointSlice{endpoint("10.0.0.1", discoveryv1.EndpointConditions{})}, []string{"10.0.0.1:7460"}},
		"alone, going":         {[]*discoveryv1.EndpointSlice{endpoint("10.0.0.1", going)}, []string{"10.0.0.1:7460"}},
		"going, and a new":     {[]*discoveryv1.EndpointSlice{endpoint("10.0.0.1", going), endpoint("10.0.0.2", discoveryv1.EndpointConditions{})}, []string{"10.0.0.2:7460"}},
		"no such port":         {[]*discoveryv1.EndpointSlice{{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: slice(discoveryv1.EndpointConditions{}, "10.0.0.1").Endpoints}}, nil},
		"names, not addresses": {[]*discoveryv1.EndpointSlice{{AddressType: discoveryv1.AddressTypeFQDN, Ports: slice(going).Ports, Endpoints: slice(discoveryv1.EndpointConditions{}, "host").Endpoints}}, nil},
	} {
		if got := addresses(tc.slices, "agents"); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// Without the right to look, it says so and what to do; with it, it goes on.
func TestForbidden(t *testing.T) {
	s := newAPIServer(t)
	s.Answer(http.StatusForbidden)
	s.put("a", slice(discoveryv1.EndpointConditions{}, "10.0.0.1"))
	updates, reports := follow(t, s)
	if err := receive(t, reports); !strings.Contains(err.Error(), "endpointslices of namespace ns: allow get, list, watch") {
		t.Errorf("reported: %v", err)
	}
	s.Answer(0)
	expect(t, updates, "10.0.0.1:7460")
}

// A server that goes away and comes back has its news noticed.
func TestServerRestarts(t *testing.T) {
	s := newAPIServer(t)
	s.put("a", slice(discoveryv1.EndpointConditions{}, "10.0.0.1"))
	updates, _ := follow(t, s)
	expect(t, updates, "10.0.0.1:7460")
	s.Answer(http.StatusServiceUnavailable)
	s.EndWatches()
	s.put("a", slice(discoveryv1.EndpointConditions{}, "10.0.0.2"))
	s.Answer(0)
	expect(t, updates, "10.0.0.2:7460")
}

func TestBadSpecifications(t *testing.T) {
	for spec, want := range map[string]string{
		"kubernetes:":              "write kubernetes:SERVICE:PORT",
		"kubernetes:future":        "write kubernetes:SERVICE:PORT",
		"dns:future:80":            "write kubernetes:SERVICE:PORT",
		"kubernetes:Future:80":     `"Future" is no name of a Service`,
		"kubernetes:future:":       "neither a number",
		"kubernetes:future:0":      "neither a number",
		"kubernetes:future:70000":  "neither a number",
		"kubernetes:a.b:80":        "is no name of a Service",
		"kubernetes:future:a:b":    "neither a number",
		"kubernetes:future:Agents": "neither a number",
	} {
		if _, err := Kind().Parse(spec, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("%q", spec)) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

// Outside a pod there is nobody to ask.
func TestOutsideACluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := discovery.Parse("kubernetes:future:agents", discovery.WithKind(Kind())); err == nil || !strings.Contains(err.Error(), "not in a Kubernetes pod") {
		t.Errorf("Parse returned %v", err)
	}
}
