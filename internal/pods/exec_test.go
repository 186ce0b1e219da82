package pods

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// executor is as much of an API server as running a command needs.
type executor struct {
	t      *testing.T
	pods   []corev1.Pod
	status metav1.Status // how the command ends
	old    bool          // it knows SPDY alone
	hangs  bool          // the command does not end
	asked  string
}

func (e *executor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/exec") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: e.pods})
		return
	}
	e.asked = r.URL.Path + "?" + r.URL.RawQuery
	ended, err := json.Marshal(e.status)
	if err != nil {
		e.t.Error(err)
	}
	switch {
	case r.Header.Get("Upgrade") != "websocket":
		e.spdy(w, r, ended)
	case e.old:
		http.Error(w, "you must request stdin, stdout or stderr", http.StatusBadRequest)
	default:
		e.webSocket(w, r, ended)
	}
}

// webSocket speaks v5.channel.k8s.io: each message begins with its channel.
func (e *executor) webSocket(w http.ResponseWriter, r *http.Request, ended []byte) {
	upgrader := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		e.t.Error(err)
		return
	}
	defer conn.Close()
	for _, message := range []string{"\x01out", "\x02err"} {
		if err := conn.WriteMessage(websocket.BinaryMessage, []byte(message)); err != nil {
			e.t.Error(err)
		}
	}
	if e.hangs {
		_, _, _ = conn.ReadMessage() // until the client goes
		return
	}
	_ = conn.WriteMessage(websocket.BinaryMessage, append([]byte("\x03"), ended...))
	_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
}

// spdy speaks v4.channel.k8s.io: a stream for each channel.
func (e *executor) spdy(w http.ResponseWriter, r *http.Request, ended []byte) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		e.t.Error(err)
		return
	}
	streams := make(chan httpstream.Stream, 3)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	say := map[string]string{"stdout": "out", "stderr": "err", "error": string(ended)}
	for range say {
		s := <-streams
		if _, err := s.Write([]byte(say[s.Headers().Get("streamType")])); err != nil {
			e.t.Error(err)
		}
		s.Close()
	}
	<-conn.CloseChan()
}

func failed(code string) metav1.Status {
	return metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: "command terminated",
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: code}}}}
}

func podNamed(name string, change func(*corev1.Pod)) corev1.Pod {
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if change != nil {
		change(&pod)
	}
	return pod
}

// output is written to by goroutines that may outlive Exec.
type output struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.Write(p)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.String()
}

func (e *executor) run(ctx context.Context) (stdout, stderr string, err error) {
	server := httptest.NewServer(e)
	defer server.Close()
	var out, errors output
	err = Exec(ctx, &rest.Config{Host: server.URL}, "ns", labels.SelectorFromSet(labels.Set{"component": "scheduler"}),
		"scheduler", []string{"Rscript", "-e", "1 + 1"}, &out, &errors)
	return out.text(), errors.text(), err
}

func TestExecReturnsTheExitCode(t *testing.T) {
	pod := []corev1.Pod{podNamed("scheduler-1", nil)}
	for name, tc := range map[string]struct {
		executor
		code int
	}{
		"success":           {executor{pods: pod, status: metav1.Status{Status: metav1.StatusSuccess}}, 0},
		"failure":           {executor{pods: pod, status: failed("3")}, 3},
		"old API server":    {executor{pods: pod, status: metav1.Status{Status: metav1.StatusSuccess}, old: true}, 0},
		"failure, likewise": {executor{pods: pod, status: failed("3"), old: true}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			e := &tc.executor
			e.t = t
			out, stderr, err := e.run(t.Context())
			if out != "out" || stderr != "err" {
				t.Errorf("stdout %q, stderr %q", out, stderr)
			}
			var exit exec.CodeExitError
			if errors.As(err, &exit); exit.Code != tc.code || (err == nil) != (tc.code == 0) {
				t.Errorf("%v, want exit code %d", err, tc.code)
			}
			if want := "/api/v1/namespaces/ns/pods/scheduler-1/exec?command=Rscript&command=-e&command=1+%2B+1&container=scheduler&stderr=true&stdout=true"; e.asked != want {
				t.Errorf("asked for %s, want %s", e.asked, want)
			}
		})
	}
}

func TestExecEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	e := &executor{t: t, pods: []corev1.Pod{podNamed("scheduler-1", nil)}, hangs: true}
	if _, _, err := e.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestExecWithoutAPod(t *testing.T) {
	e := &executor{t: t, pods: []corev1.Pod{podNamed("going", func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp = &now })}}
	_, _, err := e.run(t.Context())
	if want := "no pod component=scheduler is running in namespace ns: see 'kubectl get pods -l component=scheduler'"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestChooseTakesAReadyPod(t *testing.T) {
	going := func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp, p.Status = &now, ready }
	isReady := func(p *corev1.Pod) { p.Status = ready }
	for want, pods := range map[string][]corev1.Pod{
		"":      nil,
		"new":   {podNamed("old", going), podNamed("new", nil)},
		"ready": {podNamed("starting", nil), podNamed("ready", isReady), podNamed("old", going)},
	} {
		if got := choose(pods); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
