package api_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
)

// What a browser sends for a page of somebody else's is refused, and changes nothing.
func TestBrowsersAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		method, path, host string
		header             map[string]string
		status             int
	}{
		"a program":             {"POST", "/v1/once?ports=1&once=true", "127.0.0.1:7461", nil, 200},
		"a program, by name":    {"GET", "/v1/state", "localhost:7461", nil, 200},
		"a program, IPv6":       {"GET", "/v1/state", "[::1]:7461", nil, 200},
		"no host":               {"GET", "/v1/state", "", nil, 200},
		"R":                     {"POST", "/v1/once?ports=1&once=true", "127.0.0.1", nil, 200},
		"a page":                {"POST", "/v1/once?ports=1&once=true", "127.0.0.1:7461", map[string]string{"Origin": "https://evil.example"}, 403},
		"a page, marked":        {"POST", "/v1/once?ports=1&once=true", "127.0.0.1:7461", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"a form":                {"POST", "/v1/leases", "127.0.0.1:7461", map[string]string{"Content-Type": "text/plain"}, 415},
		"no type":               {"POST", "/v1/leases", "127.0.0.1:7461", nil, 415},
		"rebinding":             {"GET", "/v1/state", "evil.example:7461", nil, 403},
		"rebinding, same site":  {"POST", "/v1/once?ports=1&once=true", "evil.example:7461", map[string]string{"Origin": "http://evil.example:7461"}, 403},
		"rebinding to a number": {"GET", "/v1/state", "10.0.0.1:7461", nil, 403},
		"an opaque origin":      {"DELETE", "/v1/leases/x", "127.0.0.1:7461", map[string]string{"Origin": "null"}, 403},
	} {
		changed := false
		handler := api.Handler(api.Source{
			State: state, PeerUID: asUser, UIDs: []uint32{user},
			Once: func(uint32, string, []uint16, bool) int { changed = true; return 1 },
		})
		request := fromLoopback(tc.method, tc.path)
		request.Host, request.Body = tc.host, http.NoBody
		for key, value := range tc.header {
			request.Header.Set(key, value)
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		if recorder.Code != tc.status || changed && tc.status != 200 {
			t.Errorf("%s: %d %s, changed: %v; want %d", name, recorder.Code, strings.TrimSpace(recorder.Body.String()), changed, tc.status)
		}
	}
}
