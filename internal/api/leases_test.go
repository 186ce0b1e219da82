package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// book notes what it is asked and answers with what it has.
type book struct {
	asked   string
	answer  lease.Snapshot
	err     error
	waiting func(context.Context)
}

func (b *book) Open(uid uint32, r lease.Request) (lease.Snapshot, error) {
	b.asked = fmt.Sprintf("open %d %+v", uid, r)
	return b.answer, b.err
}

func (b *book) Wait(ctx context.Context, uid uint32, id string, version int, limit time.Duration) (lease.Snapshot, error) {
	b.asked = fmt.Sprintf("wait %d %s %d %s", uid, id, version, limit)
	if b.waiting != nil {
		b.waiting(ctx)
	}
	return b.answer, b.err
}

func (b *book) Close(uid uint32, id string) error {
	b.asked = fmt.Sprintf("close %d %s", uid, id)
	return b.err
}

func (b *book) List() []lease.Snapshot {
	return []lease.Snapshot{{ID: "mine", UID: 1000}, {ID: "theirs", UID: 1001}}
}

// leased is a Source with a book whose callers are of the user given.
func leased(b *book, caller uint32, hinted *bool) api.Source {
	return api.Source{
		Leases: b, UIDs: []uint32{1000}, Hint: func() { *hinted = true },
		PeerUID: func(local, remote net.Addr) (uint32, error) {
			if local == nil || remote.(*net.TCPAddr).Port == 0 {
				return 0, errors.New("no addresses")
			}
			return caller, nil
		},
	}
}

// ask asks over a real connection, as whose owner is told.
func ask(t *testing.T, source api.Source, method, path, body string) (int, string) {
	t.Helper()
	server := httptest.NewServer(api.Handler(source))
	defer server.Close()
	return testkit.Ask(t, server.Client(), method, server.URL+path, body)
}

func TestLeasesAnswers(t *testing.T) {
	refusal := &lease.Refusal{Kind: lease.ErrNever, Reason: lease.NoGroup, Text: "there is no worker group"}
	busy := &lease.Refusal{Kind: lease.ErrBusy, Reason: lease.Crowded, Text: "there are 100 leases"}
	for _, tc := range []struct {
		method, path, body string
		err                error
		status             int
		want, asked        string
	}{
		{"POST", "/v1/leases", `{"workers":6,"group":"gpu","label":"x"}`, nil, 201, `"id":"k3"`, "open 1000 {Workers:6 Group:gpu Share:false Label:x Returned:[]}"},
		{"POST", "/v1/leases", `{"workers":-6}`, nil, 400, "workers: -6, give 1 to 10000", ""},
		{"POST", "/v1/leases", `{"label":"` + strings.Repeat("x", 5000) + `"}`, nil, 413, "request body too large", ""},
		{"POST", "/v1/leases", `{}`, refusal, 409, "there is no worker group\n", "open 1000 {Workers:0 Group: Share:false Label: Returned:[]}"},
		{"POST", "/v1/leases", `{}`, busy, 429, "there are 100 leases\n", "open 1000 {Workers:0 Group: Share:false Label: Returned:[]}"},
		{"POST", "/v1/leases", `{}`, errors.New("no netlink"), 500, "no netlink\n", "open 1000 {Workers:0 Group: Share:false Label: Returned:[]}"},
		{"GET", "/v1/leases/k3", "", nil, 200, `"state":"ready"`, "wait 1000 k3 -1 0s"},
		{"GET", "/v1/leases/k3?wait=2.5&version=7", "", nil, 200, `"port":11234`, "wait 1000 k3 7 2.5s"},
		{"GET", "/v1/leases/k3?wait=31", "", nil, 400, `wait: "31", give 0 to 30 seconds`, ""},
		{"GET", "/v1/leases/k3?wait=NaN", "", nil, 400, `wait: "NaN"`, ""},
		{"GET", "/v1/leases/k3?version=-1", "", nil, 400, `version: "-1"`, ""},
		{"GET", "/v1/leases/k3", "", lease.ErrUnknown, 404, "there is no such lease", "wait 1000 k3 -1 0s"},
		{"GET", "/v1/leases/k3", "", lease.ErrOwner, 403, "belongs to another user", "wait 1000 k3 -1 0s"},
		{"GET", "/v1/leases/k3", "", lease.ErrEnding, 503, "ending", "wait 1000 k3 -1 0s"},
		{"DELETE", "/v1/leases/k3", "", nil, 204, "", "close 1000 k3"},
		{"DELETE", "/v1/leases/k3", "", lease.ErrOwner, 403, "belongs to another user", "close 1000 k3"},
		{"GET", "/v1/leases", "", nil, 200, `[{"id":"mine"`, ""},
		{"PUT", "/v1/leases", "", nil, 405, "", ""},
	} {
		hinted := false
		b := &book{err: tc.err, answer: lease.Snapshot{ID: "k3", Port: 11234, State: lease.Ready}}
		status, body := ask(t, leased(b, 1000, &hinted), tc.method, tc.path, tc.body)
		if status != tc.status || !strings.Contains(body, tc.want) || b.asked != tc.asked {
			t.Errorf("%s %s %.40s: %d %q, asked to %q; want %d %q, %q", tc.method, tc.path, tc.body, status, body, b.asked, tc.status, tc.want, tc.asked)
		}
		// A session that is to connect will listen in a moment.
		if ready := status < 300 && strings.Contains(body, `"ready"`) && tc.path != "/v1/leases" || status == 201; hinted != ready {
			t.Errorf("%s %s: hinted %v, want %v", tc.method, tc.path, hinted, ready)
		}
	}
}

// Only the users whose sessions are served have leases.
func TestLeasesOfStrangers(t *testing.T) {
	for _, method := range []string{"POST /v1/leases", "GET /v1/leases", "GET /v1/leases/k3", "DELETE /v1/leases/k3"} {
		verb, path, _ := strings.Cut(method, " ")
		b, hinted := &book{}, false
		status, body := ask(t, leased(b, 1001, &hinted), verb, path, "{}")
		if status != http.StatusForbidden || !strings.Contains(body, "this process belongs to user 1001") || b.asked != "" {
			t.Errorf("%s: %d %q, asked to %q", method, status, body, b.asked)
		}
		// Without addresses nobody can tell.
		recorder := httptest.NewRecorder()
		request := httptest.NewRequest(verb, path, strings.NewReader("{}"))
		request.Host = "127.0.0.1:7461"
		request.Header.Set("Content-Type", "application/json")
		api.Handler(leased(b, 1000, &hinted)).ServeHTTP(recorder, request)
		if recorder.Code != http.StatusForbidden {
			t.Errorf("%s: %d %q", method, recorder.Code, recorder.Body)
		}
	}
}

// A question that waits outlasts the server's limits, and ends when its caller hangs
// up.
func TestLongWait(t *testing.T) {
	const limit = time.Second // a busy machine needs some of it
	b, hinted := &book{answer: lease.Snapshot{ID: "k3", State: lease.Waiting}}, false
	server := httptest.NewUnstartedServer(api.Handler(leased(b, 1000, &hinted)))
	server.Config.ReadTimeout, server.Config.WriteTimeout = limit, limit
	server.Start()
	defer server.Close()
	b.waiting = func(ctx context.Context) {
		select {
		case <-time.After(2 * limit):
		case <-ctx.Done():
			t.Error("the question was cut short")
		}
	}
	response, err := server.Client().Get(server.URL + "/v1/leases/k3?wait=20")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got lease.Snapshot
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil || got.ID != "k3" {
		t.Errorf("got %+v, %v", got, err)
	}

	asked, ended := make(chan struct{}), make(chan struct{})
	b.waiting = func(ctx context.Context) {
		close(asked)
		<-ctx.Done()
		close(ended)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/leases/k3?wait=20", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		hangUp()
	}()
	if _, err := server.Client().Do(request); err == nil {
		t.Error("who has hung up is answered")
	}
	<-ended
}
