package api

import (
	"fmt"
	"mime"
	"net"
	"net/http"

	"github.com/psock-runtime/psock-runtime/internal/admin"
)

// guarded refuses what a page in somebody's browser can have asked. Who asks here is a program
// of this network namespace, which names a loopback address as the host: a browser that a page
// has led here by a name of its own (DNS rebinding) names that. What a page of another origin
// asks otherwise its browser marks.
func guarded(next http.Handler) http.Handler {
	local := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if host != "" && !admin.LoopbackHost(host) { // a browser always sends one, HTTP/1.0 need not
			http.Error(w, fmt.Sprintf("host %.100q is not a loopback address; use 127.0.0.1 or localhost", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
	return http.NewCrossOriginProtection().Handler(local)
}

// speaksJSON reports whether the request's body says that it is JSON, which a page cannot say
// without asking first. Otherwise it has answered.
func speaksJSON(w http.ResponseWriter, r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && kind == "application/json" {
		return true
	}
	http.Error(w, fmt.Sprintf("content type: %.100q, want application/json", r.Header.Get("Content-Type")), http.StatusUnsupportedMediaType)
	return false
}
