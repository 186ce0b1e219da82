package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func state() api.State {
	return api.State{
		Build: "1.0", Backend: "netlink",
		Workers: []pool.Snapshot{
			{Agent: "pod-a", Slot: 0, State: pool.Bound, Since: now.Add(-90 * time.Second), PID: 12, Cluster: "cluster 1 (port 11562)", Node: "node-1", RVersion: "4.2.2", MemoryBytes: 3 << 29},
			{Agent: "pod-a", Slot: 1, State: pool.Failed, Reason: "no Rscript", Since: now},
			{Agent: "pod-b", Slot: 0, State: pool.Warm, Since: now.Add(-time.Second), PID: 13, LastExit: "killed by signal 9", Deaths: 2, MemoryBytes: 51 << 20},
		},
		Pods: []pods.Pod{{Name: "pod-c", Reason: "Unschedulable: 0/2 nodes are available"}},
		Clusters: []broker.ClusterSnapshot{{
			ID: 1, Port: 11562, UID: 1000, Since: now.Add(-time.Hour), Refusal: "1 of 2 workers are ready",
			Nodes: []broker.NodeSnapshot{
				{State: "bound", Worker: "pod-a/0", Activity: relay.Activity{Busy: true, Calls: 7, BusyTime: 2 * time.Second}},
				{State: "waiting"},
			},
		}},
	}
}

// scaled is a state with two groups that are scaled.
func scaled() api.State {
	return api.State{Scaling: []scaler.Snapshot{
		{Group: "default", Deployment: "future-worker", Max: 6, Slots: 2, Wanted: 9, Need: 5, Pods: 5, Ready: 3, Leaving: 1, Conditions: []scaler.Condition{
			{Type: scaler.ScalingFails, Reason: "Unreachable", Message: "no answer", Since: now.Add(-90 * time.Second)},
			{Type: scaler.Paused, Reason: "Paused", Message: "it is", Since: now.Add(-time.Second)},
		}},
		{Group: "gpu", Deployment: "future-worker-gpu", Min: 1, Max: 2, Slots: 1, Pods: 1, Ready: 1},
	}}
}

func TestWorkersAnswers(t *testing.T) {
	for query, want := range map[string]struct {
		status int
		body   string
		ports  []uint16
		hinted bool
		plan   bool
	}{
		"":                       {http.StatusOK, "3\n", nil, true, false},
		"?ports=":                {http.StatusOK, "3\n", nil, true, false},
		"?ports=11562":           {http.StatusOK, "3\n", []uint16{11562}, true, false},
		"?ports=11562,11000":     {http.StatusOK, "3\n", []uint16{11562, 11000}, true, false},
		"?plan=true&session=7-1": {http.StatusOK, "3\n", nil, true, true},
		"?session=7-1":           {http.StatusOK, "3\n", nil, true, false},
		"?ports=11562,":          {http.StatusBadRequest, `ports: "" is no port number; give them separated by commas` + "\n", nil, false, false},
		"?ports=many":            {http.StatusBadRequest, `ports: "many" is no port number; give them separated by commas` + "\n", nil, false, false},
		"?ports=70000":           {http.StatusBadRequest, `ports: "70000" is no port number; give them separated by commas` + "\n", nil, false, false},
		"?ports=" + ports(2000):  {http.StatusBadRequest, "ports: 2000 given, at most 1024 are taken\n", nil, false, false},
	} {
		var asked []uint16
		hinted, forPlan, session := false, false, ""
		handler := api.Handler(api.Source{
			State: state,
			Available: func(_ uint32, s string, ports []uint16, plan bool) int {
				asked, session, forPlan = ports, s, plan
				return 3
			},
			Hint:    func() { hinted = true },
			Outlook: func() string { return "2 pods start" },
			PeerUID: asUser, UIDs: []uint32{user},
		})
		status, body := get(t, handler, "/v1/workers"+query)
		if outlook := header(handler, "/v1/workers"+query).Get("Outlook"); (outlook == "2 pods start") != want.plan {
			t.Errorf("%.40s: outlook %q", query, outlook)
		}
		if status != want.status || body != want.body || fmt.Sprint(asked) != fmt.Sprint(want.ports) || hinted != want.hinted || forPlan != want.plan || (session == "7-1") != strings.Contains(query, "session=") {
			t.Errorf("%.40s: %d %q, asked for %v by %q, hinted %v; want %+v", query, status, body, asked, session, hinted, want)
		}
	}
}

// Ports are a user's own: whose clusters a stranger gives back is not known.
func TestWorkersForAStranger(t *testing.T) {
	asked := []uint16{}
	handler := api.Handler(api.Source{
		Available: func(_ uint32, _ string, ports []uint16, _ bool) int { asked = ports; return 3 },
		Hint:      func() {}, Outlook: func() string { return "" }, PeerUID: asUser,
	})
	if status, body := get(t, handler, "/v1/workers?ports=11000&plan=true"); status != http.StatusOK || body != "3\n" || asked != nil {
		t.Errorf("%d %q, asked for %v", status, body, asked)
	}
}

func TestOnceAnswers(t *testing.T) {
	for query, want := range map[string]struct {
		status int
		body   string
		asked  string
	}{
		"?ports=11562,11000&once=true&session=7-1": {http.StatusOK, "7\n", "[11562 11000] true"},
		"?ports=11562&once=false&session=7-1":      {http.StatusOK, "7\n", "[11562] false"},
		"?ports=11563&once=false&session=7-1":      {http.StatusForbidden, "this is for the users whose R sessions are served (--session-uids); this process belongs to user 1000\n", ""},
		"?ports=11562":                             {http.StatusBadRequest, `once: "", want true or false` + "\n", ""},
		"?ports=x&once=true":                       {http.StatusBadRequest, `ports: "x" is no port number; give them separated by commas` + "\n", ""},
	} {
		asked := ""
		source := api.Source{PeerUID: asUser, UIDs: []uint32{user}, Once: func(uid uint32, session string, ports []uint16, once bool) int {
			if uid == user && session == "7-1" {
				asked = fmt.Sprint(ports, once)
			}
			return 7
		}}
		if strings.Contains(query, "11563") {
			source.UIDs = nil
		}
		recorder := httptest.NewRecorder()
		api.Handler(source).ServeHTTP(recorder, fromLoopback(http.MethodPost, "/v1/once"+query))
		if recorder.Code != want.status || recorder.Body.String() != want.body || asked != want.asked {
			t.Errorf("%s: %d %q, asked for %s; want %+v", query, recorder.Code, recorder.Body, asked, want)
		}
	}
}

// user is whose process asks.
const user = 1000

func asUser(net.Addr, net.Addr) (uint32, error) { return user, nil }

// fromLoopback is a request as it comes through a listener.
func fromLoopback(method, path string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:7461"
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7461}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local)))
}

// ports is a list of n ports.
func ports(n int) string { return strings.TrimSuffix(strings.Repeat("11000,", n), ",") }

func header(handler http.Handler, path string) http.Header {
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, fromLoopback(http.MethodGet, path))
	return recorder.Result().Header
}

func get(t *testing.T, handler http.Handler, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, fromLoopback(http.MethodGet, path))
	body, err := io.ReadAll(recorder.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return recorder.Code, string(body)
}

func TestStateAsJSON(t *testing.T) {
	handler := api.Handler(api.Source{State: state})
	status, body := get(t, handler, "/v1/state")
	var got api.State
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", state()) {
		t.Errorf("got %+v", got)
	}
	if status, _ := get(t, handler, "/v2"); status != http.StatusNotFound {
		t.Errorf("another path: %d", status)
	}
}

func TestStateAsText(t *testing.T) {
	for _, tc := range []struct {
		state api.State
		want  string
	}{
		{state(), `
WORKER   NODE    STATE   FOR    PID  MEMORY  CALLS  BUSY  CLUSTER                 REASON
pod-a/0  node-1  busy    1m30s  12   1.5GiB  7      2s    cluster 1 (port 11562)  -
pod-a/1  -       failed  -      -    -       -      -     -                       no Rscript
pod-b/0  -       warm    1s     13   51MiB   -      -     -                       last worker: killed by signal 9
pod-c    -       pod     -      -    -       -      -     -                       Unschedulable: 0/2 nodes are available

CLUSTER  PORT   USER  FOR     NODES  WAITING  CALLS  UNMET DEMAND
1        11562  1000  1h0m0s  2      1        7      1 of 2 workers are ready
`},
		{api.State{Leases: []lease.Snapshot{
			{ID: "k3jwq7nn2pxl", Port: 11234, UID: 1000, Workers: 6, Group: "gpu", State: lease.Waiting, Ready: 2, Since: now.Add(-time.Minute), Message: "2 of 6 workers are ready"},
			{ID: "m4", Label: "report", Port: 11235, UID: 1000, Workers: 40, Share: true, State: lease.Connected, Ready: 1, Since: now.Add(-time.Hour)},
		}}, `
WORKER  NODE  STATE  FOR  PID  MEMORY  CALLS  BUSY  CLUSTER  REASON
(no worker agent is connected)

CLUSTER  PORT  USER  FOR  NODES  WAITING  CALLS  UNMET DEMAND
(no cluster)

LEASE     PORT   USER  FOR     GROUP  WORKERS      READY  STATE      MESSAGE
k3jwq7nn  11234  1000  1m0s    gpu    6            2      waiting    2 of 6 workers are ready
report    11235  1000  1h0m0s  -      40 in turns  1      connected  -
`},
		{api.State{}, `
WORKER  NODE  STATE  FOR  PID  MEMORY  CALLS  BUSY  CLUSTER  REASON
(no worker agent is connected)

CLUSTER  PORT  USER  FOR  NODES  WAITING  CALLS  UNMET DEMAND
(no cluster)
`},
		{scaled(), `
WORKER  NODE  STATE  FOR  PID  MEMORY  CALLS  BUSY  CLUSTER  REASON
(no worker agent is connected)

CLUSTER  PORT  USER  FOR  NODES  WAITING  CALLS  UNMET DEMAND
(no cluster)

GROUP    DEPLOYMENT         WANTED  PODS  READY  LEAVING  MIN  MAX  FOR    CONDITION
default  future-worker      9       5     3      1        0    6    1m30s  ScalingFails, Unreachable: no answer
                                                                    1s     Paused, Paused: it is
gpu      future-worker-gpu  0       1     1      -        1    2    -      -
`},
	} {
		var out strings.Builder
		if err := api.WriteTable(&out, tc.state, now); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + out.String(); got != tc.want {
			t.Errorf("got:%s\nwant:%s", got, tc.want)
		}
	}
}
