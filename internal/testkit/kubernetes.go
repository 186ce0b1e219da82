package testkit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
)

// APIServer is as much of a Kubernetes API server as a watch of one kind of object needs. It
// answers at every path and with every selector alike.
type APIServer[T any] struct {
	*httptest.Server
	apiVersion, kind string

	mu      sync.Mutex
	version int
	objects map[string]T
	events  []event
	news    chan struct{} // closed at the next event
	end     chan struct{} // closed to end the watches under way
	streams bool
	status  int
	expired bool
	queries []string
}

type event struct {
	Type    string `json:"type"`
	Object  any    `json:"object"`
	version int
}

// NewAPIServer starts a server of objects of a kind, which ends with the test.
func NewAPIServer[T any](t testing.TB, apiVersion, kind string) *APIServer[T] {
	s := &APIServer[T]{
		apiVersion: apiVersion, kind: kind,
		objects: make(map[string]T), news: make(chan struct{}), end: make(chan struct{}),
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// ServeHTTP implements http.Handler.
func (s *APIServer[T]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	watches, begins := query.Get("watch") != "", query.Get("sendInitialEvents") == "true"
	s.mu.Lock()
	s.queries = append(s.queries, r.URL.Path+"?"+r.URL.RawQuery)
	status, version, streams := s.status, s.version, s.streams
	items := make([]T, 0, len(s.objects))
	for _, object := range s.objects {
		items = append(items, object)
	}
	expired := watches && !begins && s.expired
	if expired {
		s.expired, s.status = false, http.StatusServiceUnavailable
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case status != 0:
		Refuse(w, status, "Forbidden")
	case !watches:
		send(w, s.list(version, items))
	case begins && !streams:
		Refuse(w, http.StatusBadRequest, "Invalid")
	case expired:
		send(w, event{Type: "ERROR", Object: failure(http.StatusGone, "Expired")})
	case begins:
		for _, object := range items {
			send(w, event{Type: "ADDED", Object: object})
		}
		send(w, event{Type: "BOOKMARK", Object: s.bookmark(version)})
		s.tell(w, r, version)
	default:
		_, _ = fmt.Sscan(query.Get("resourceVersion"), &version)
		s.tell(w, r, version)
	}
}

func (s *APIServer[T]) list(version int, items []T) any {
	return map[string]any{
		"apiVersion": s.apiVersion, "kind": s.kind + "List",
		"metadata": map[string]any{"resourceVersion": fmt.Sprint(version)}, "items": items,
	}
}

// bookmark ends the objects that a watch begins with.
func (s *APIServer[T]) bookmark(version int) any {
	return map[string]any{"apiVersion": s.apiVersion, "kind": s.kind, "metadata": map[string]any{
		"resourceVersion": fmt.Sprint(version),
		"annotations":     map[string]string{"k8s.io/initial-events-end": "true"},
	}}
}

// tell sends what happens after version, until the request or the watch ends.
func (s *APIServer[T]) tell(w http.ResponseWriter, r *http.Request, version int) {
	s.mu.Lock()
	end := s.end
	s.mu.Unlock()
	for sent := 0; ; {
		s.mu.Lock()
		events, news := s.events, s.news
		s.mu.Unlock()
		for ; sent < len(events); sent++ {
			if events[sent].version > version && !send(w, events[sent]) {
				return
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-news:
		case <-end:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// Change puts what change makes of the object of that name in its place, and tells the
// watches. change gets the zero T for a name that is new, and the version that its result is to
// have; if it does not keep the object, that is deleted.
func (s *APIServer[T]) Change(name string, change func(old T, version string) (object T, keep bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	what := "ADDED"
	old, known := s.objects[name]
	if known {
		what = "MODIFIED"
	}
	object, keep := change(old, fmt.Sprint(s.version))
	if keep {
		s.objects[name] = object
	} else {
		what = "DELETED"
		delete(s.objects, name)
	}
	s.events = append(s.events, event{what, object, s.version})
	close(s.news)
	s.news = make(chan struct{})
}

// Answer has every request from now on answered with status; 0 ends that.
func (s *APIServer[T]) Answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// Stream has the server send a list by way of a watch, which not every server does.
func (s *APIServer[T]) Stream() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = true
}

// EndWatches ends the watches under way in good order, as a server does that restarts.
// CloseClientConnections breaks them off.
func (s *APIServer[T]) EndWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.end)
	s.end = make(chan struct{})
}

// Expire has the next watch told that its version is gone. From then on every request is
// refused, until Answer(0).
func (s *APIServer[T]) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expired = true
}

// Expires reports whether that watch is yet to come.
func (s *APIServer[T]) Expires() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expired
}

// Queries are the requests until now, each as PATH?QUERY.
func (s *APIServer[T]) Queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queries)
}

// Refuse answers as an API server does that refuses a request.
func Refuse(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	send(w, failure(status, reason))
}

// failure is a metav1.Status.
func failure(status int, reason string) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": "refused by the test",
	}
}

// send reports whether the client is still there.
func send(w http.ResponseWriter, object any) bool { return json.NewEncoder(w).Encode(object) == nil }
