package pods

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// observe is the watch that a reflector gets when the API server's is server, of a Watcher that
// has all pods of the start.
func observe(t *testing.T, server apiwatch.Interface, options metav1.ListOptions) (*Watcher, apiwatch.Interface) {
	t.Helper()
	w, err := New(Config{Log: zap.NewNop(), API: &rest.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	w.hear(func() { w.listed = true })
	source := &cache.ListWatch{WatchFuncWithContext: func(context.Context, metav1.ListOptions) (apiwatch.Interface, error) { return server, nil }}
	var streams sync.WaitGroup
	watch, err := w.observed(source, &streams).WatchWithContext(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watch.Stop(); streams.Wait() })
	return w, watch
}

// receive is the next event of watch.
func receive(t *testing.T, watch apiwatch.Interface) (event apiwatch.Event, open bool) {
	t.Helper()
	select {
	case event, open = <-watch.ResultChan():
	case <-time.After(testkit.Patience):
		t.Fatalf("no event within %s", testkit.Patience)
	}
	return event, open
}

// bookmark is what ends the pods that there are, and then tells of versions now and then.
func bookmark(annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1", Annotations: annotations}}
}

// client-go asks again only after a while when a watch has ended, up to a minute. It may have
// ended with its first event: a server that has just started does not have the versions of before.
func TestWatchEnds(t *testing.T) {
	gone := apierrors.NewResourceExpired("too old resource version").Status()
	for name, end := range map[string]func(*apiwatch.FakeWatcher){
		"410":    func(server *apiwatch.FakeWatcher) { server.Error(&gone) },
		"closed": func(server *apiwatch.FakeWatcher) { server.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			server := apiwatch.NewFake()
			w, watch := observe(t, server, metav1.ListOptions{})
			if !isClosed(w.Current()) {
				t.Error("the API server has answered, and the pods are not known")
			}
			go end(server)
			if event, open := receive(t, watch); open && event.Object != &gone {
				t.Errorf("got %+v", event)
			}
			if isClosed(w.Current()) {
				t.Error("the watch has ended, and the pods are known")
			}
		})
	}
}

// A watch that begins with the pods that there are knows them when it says so.
func TestWatchBeginsWithAList(t *testing.T) {
	server := apiwatch.NewFake()
	begins := true
	w, watch := observe(t, server, metav1.ListOptions{SendInitialEvents: &begins})
	told := func(event apiwatch.Event) {
		t.Helper()
		go server.Action(event.Type, event.Object)
		if got, _ := receive(t, watch); got != event {
			t.Errorf("got %+v, want %+v", got, event)
		}
	}
	told(apiwatch.Event{Type: apiwatch.Added, Object: &corev1.Pod{}})
	told(apiwatch.Event{Type: apiwatch.Bookmark, Object: bookmark(nil)})
	if isClosed(w.Current()) {
		t.Error("the pods are known in the midst of them")
	}
	told(apiwatch.Event{Type: apiwatch.Bookmark, Object: bookmark(map[string]string{metav1.InitialEventsAnnotationKey: "true"})})
	testkit.Eventually(t, "the pods to be known", func() bool { return isClosed(w.Current()) })
	watch.Stop()
	testkit.Eventually(t, "the pods not to be known any more", func() bool { return !isClosed(w.Current()) })
}

// The same with client-go, and a server that sends its list so.
func TestListByWatch(t *testing.T) {
	s := newAPIServer(t)
	s.Stream()
	s.set("a", at("10.0.0.1"))
	w := watch(t, s)
	await(t, w)
	verify(t, w, claim("a", "default", "10.0.0.1"))
	s.set("b", at("10.0.0.2"))
	verify(t, w, claim("b", "default", "10.0.0.2"))
	if queries := s.Queries(); len(queries) != 1 || !strings.Contains(queries[0], "sendInitialEvents=true") {
		t.Errorf("it asked for %q", queries)
	}
}

// The end of a watch may be noticed when the next one has begun.
func TestWatchEndsLate(t *testing.T) {
	w, before := observe(t, apiwatch.NewFake(), metav1.ListOptions{})
	var streams sync.WaitGroup
	after := w.follow(apiwatch.NewFake(), false, &streams)
	before.Stop()
	if _, open := receive(t, before); open {
		t.Error("an event of a watch that has ended")
	}
	if !isClosed(w.Current()) {
		t.Error("the next watch does not count")
	}
	after.Stop()
	streams.Wait()
}

// The API server is back, and does not have the version that the watch had come to.
func TestWatchExpires(t *testing.T) {
	s := newAPIServer(t)
	w := watch(t, s)
	await(t, w)
	s.Expire()
	s.CloseClientConnections()
	testkit.Eventually(t, "the watch to have expired", func() bool { return !s.Expires() && !isClosed(w.Current()) })
	s.set("a", at("10.0.0.1"))
	s.Answer(0)
	await(t, w)
	verify(t, w, claim("a", "default", "10.0.0.1"))
}

// await returns when the pods are known.
func await(t *testing.T, w rig) {
	t.Helper()
	testkit.Receive(t, w.Current(), "the pods to be known")
}

// verify returns when what is claimed is known to be true.
func verify(t *testing.T, w rig, claim Claim) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	if err := w.Verify(ctx, claim); err != nil {
		t.Error(err)
	}
}

// A watch that the API server ends, as it does every few minutes, is one again at once.
func TestCurrentAgain(t *testing.T) {
	s := newAPIServer(t)
	w := watch(t, s)
	await(t, w)
	before := s.watches()
	s.CloseClientConnections()
	testkit.Eventually(t, "the next watch", func() bool { return s.watches() > before }) // now Current is not that of before
	await(t, w)
	s.set("a", at("10.0.0.1"))
	verify(t, w, claim("a", "default", "10.0.0.1"))
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Without an answer of the API server nothing is known, and that is known.
func TestNotListed(t *testing.T) {
	s := newAPIServer(t)
	s.Answer(http.StatusForbidden)
	s.set("a", at("10.0.0.1"))
	w := watch(t, s)
	testkit.Eventually(t, "a complaint", func() bool { return w.logs.Len() > 0 })
	if isClosed(w.Current()) {
		t.Error("the pods are known")
	}
	s.Answer(0)
	await(t, w)
	verify(t, w, claim("a", "default", "10.0.0.1"))
}

// answers is an API server, without the network.
type answers func() (*http.Response, error)

func (a answers) RoundTrip(*http.Request) (*http.Response, error) { return a() }

// client-go tells nobody, and waits without end, when the first watch gets one of these answers.
// The log has it, and a rendezvous that ends does not wait for the next.
func TestNoAnswerAtTheStart(t *testing.T) {
	for why, server := range map[string]answers{
		"connection refused": func() (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		},
		"too many requests": func() (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Body: http.NoBody}, nil
		},
	} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, logs := testkit.Logger()
				w, err := New(Config{Log: log, API: &rest.Config{Host: "http://api", Transport: server}, Namespace: "ns", Selector: labels.Everything()})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- w.Run(ctx) }()
				time.Sleep(10 * time.Minute)
				if n := logs.Len(); n < 5 || n > 10 {
					t.Errorf("%d lines in 10 minutes", n)
				}
				for _, line := range logs.All() {
					if got := fmt.Sprint(line.ContextMap()["error"]); !strings.Contains(got, why) {
						t.Errorf("%s: %s", line.Message, got)
					}
				}
				cancel()
				before := time.Now()
				<-ended
				if took := time.Since(before); took > time.Second {
					t.Errorf("it ends after %s", took)
				}
			})
		})
	}
}
