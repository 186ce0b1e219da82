package pods

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// apiServer is as much of an API server as a watch of pods needs.
type apiServer struct {
	*httptest.Server
	mu      sync.Mutex
	version int
	pods    map[string]corev1.Pod
	events  []event
	news    chan struct{}
	lists   bool // by way of a watch: not every server does
	status  int  // answered in the place of everything, if not 0
	expired bool // the version of the next watch
	queries []string
}

type event struct {
	Type    string     `json:"type"`
	Object  corev1.Pod `json:"object"`
	version int
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{pods: make(map[string]corev1.Pod), news: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.queries = append(s.queries, r.URL.Path+"?"+r.URL.RawQuery)
	status := s.status
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(s.version)}}
	for _, pod := range s.pods {
		list.Items = append(list.Items, pod)
	}
	version, lists := s.version, s.lists
	query := r.URL.Query()
	watches, begins := query.Get("watch") != "", query.Get("sendInitialEvents") == "true"
	expired := watches && !begins && s.expired
	if expired {
		s.expired, s.status = false, http.StatusServiceUnavailable
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	switch {
	case status != 0:
		refuse(w, status, metav1.StatusReasonForbidden)
	case !watches:
		_ = encoder.Encode(list)
	case begins && !lists:
		refuse(w, http.StatusBadRequest, metav1.StatusReasonInvalid)
	case expired:
		gone := apierrors.NewResourceExpired("too old resource version").Status()
		gone.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		_ = encoder.Encode(map[string]any{"type": "ERROR", "object": gone})
	case begins:
		for _, pod := range list.Items {
			_ = encoder.Encode(event{Type: "ADDED", Object: pod})
		}
		end := bookmark(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		end.TypeMeta, end.ResourceVersion = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, list.ResourceVersion
		_ = encoder.Encode(event{Type: "BOOKMARK", Object: *end})
		s.tell(w, r, version)
	default:
		_, _ = fmt.Sscan(query.Get("resourceVersion"), &version)
		s.tell(w, r, version)
	}
}

func refuse(w http.ResponseWriter, status int, reason metav1.StatusReason) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: "Failure", Code: int32(status), Reason: reason, Message: "pods is forbidden"})
}

// tell sends what happens after version, until the request ends.
func (s *apiServer) tell(w http.ResponseWriter, r *http.Request, version int) {
	encoder := json.NewEncoder(w)
	for sent := 0; ; {
		s.mu.Lock()
		events, news := s.events, s.news
		s.mu.Unlock()
		for ; sent < len(events); sent++ {
			if events[sent].version > version && encoder.Encode(events[sent]) != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}

// set makes or changes a pod; a nil status deletes it.
func (s *apiServer) set(name string, status *corev1.PodStatus) { s.setWith(name, status, nil) }

// setWith is set of a pod that is changed further.
func (s *apiServer) setWith(name string, status *corev1.PodStatus, change func(*corev1.Pod)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	pod := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), ResourceVersion: fmt.Sprint(s.version)},
	}
	if change != nil {
		change(&pod)
	}
	what := "ADDED"
	if old, known := s.pods[name]; known {
		what, pod.Status = "MODIFIED", old.Status
	}
	if status == nil {
		what = "DELETED"
		delete(s.pods, name)
	} else {
		pod.Status = *status
		s.pods[name] = pod
	}
	s.events = append(s.events, event{what, pod, s.version})
	close(s.news)
	s.news = make(chan struct{})
}

func (s *apiServer) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// expire has the next watch told that its version is gone, and then answers nothing more.
func (s *apiServer) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expired = true
}

// expires reports whether that watch is yet to come.
func (s *apiServer) expires() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expired
}

// watches counts the requests to watch, without those that are to begin with a list.
func (s *apiServer) watches() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, query := range s.queries {
		if strings.Contains(query, "watch=true") && !strings.Contains(query, "sendInitialEvents") {
			n++
		}
	}
	return n
}
