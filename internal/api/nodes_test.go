package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
)

func TestNodesAnswers(t *testing.T) {
	for query, want := range map[string]struct {
		status int
		body   string
		asked  string
	}{
		"?port=11562&peers=40001,40002": {http.StatusOK, "2\n", "11562 [40001 40002]"},
		"?port=11562&peers=":            {http.StatusOK, "2\n", "11562 []"},
		"?port=11562":                   {http.StatusOK, "2\n", "11562 []"},
		"":                              {http.StatusBadRequest, `port: "" is not a port number` + "\n", ""},
		"?port=70000":                   {http.StatusBadRequest, `port: "70000" is not a port number` + "\n", ""},
		"?port=1&peers=x":               {http.StatusBadRequest, `peers: "x" is no port number; give them separated by commas` + "\n", ""},
		"?port=1&peers=" + ports(2000):  {http.StatusBadRequest, "peers: 2000 given, at most 1024 are taken\n", ""},
	} {
		asked := ""
		source := api.Source{PeerUID: asUser, UIDs: []uint32{user}, Nodes: func(uid uint32, port uint16, peers []uint16) int {
			if uid == user {
				asked = fmt.Sprint(port, peers)
			}
			return 2
		}}
		status, body := get(t, api.Handler(source), "/v1/nodes"+query)
		if status != want.status || body != want.body || asked != want.asked {
			t.Errorf("%.40s: %d %q, asked for %q; want %+v", query, status, body, asked, want)
		}
		source.UIDs = nil
		if status, _ := get(t, api.Handler(source), "/v1/nodes?port=11562"); status != http.StatusForbidden {
			t.Errorf("a stranger: %d", status)
		}
	}
}

// Whatever is asked, ports come as they were given, or the answer names what is wrong.
func FuzzNodes(f *testing.F) {
	for _, seed := range []string{"port=11562&peers=40001,40002", "port=&peers=", "port=1&peers=,", "port=0&port=2&peers=%00", ";port=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		asked := false
		handler := api.Handler(api.Source{PeerUID: asUser, UIDs: []uint32{user}, Nodes: func(uint32, uint16, []uint16) int {
			asked = true
			return 0
		}})
		request := fromLoopback(http.MethodGet, "/v1/nodes")
		request.URL.RawQuery = query
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		if wanted := map[bool]int{true: http.StatusOK, false: http.StatusBadRequest}[asked]; recorder.Code != wanted || recorder.Body.Len() == 0 {
			t.Errorf("%q: %d %q, asked: %v", query, recorder.Code, recorder.Body, asked)
		}
	})
}
