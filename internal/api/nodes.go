package api

import (
	"fmt"
	"net/http"
	"strconv"
)

// handleNodes adds to mux what tells a session whether a connection of its is the rendezvous'.
func handleNodes(mux *http.ServeMux, source Source) {
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		port, err := strconv.ParseUint(query.Get("port"), 10, 16)
		if err != nil {
			http.Error(w, fmt.Sprintf("port: %q is not a port number", query.Get("port")), http.StatusBadRequest)
			return
		}
		peers, err := parsePorts("peers", query.Get("peers"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		uid, err := source.caller(r)
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, source.Nodes(uid, uint16(port), peers))
	})
}
