package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/broker"
)

// maxName bounds the names that a session gives itself and its clusters, in bytes.
const maxName = 100

// handleListeners adds to mux what tells the rendezvous for whom a session is about to listen.
func handleListeners(mux *http.ServeMux, source Source) {
	mux.HandleFunc("POST /v1/listeners", func(w http.ResponseWriter, r *http.Request) {
		announcement, err := parseAnnouncement(r)
		if err == nil && r.ContentLength != 1 {
			err = fmt.Errorf("content length: %d, give 1: the byte that ends the announcement, for which this request waits", r.ContentLength)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if announcement.UID, err = source.caller(r); err != nil {
			fail(w, err)
			return
		}
		retract, err := source.Announce(announcement)
		if err != nil {
			fail(w, err)
			return
		}
		defer retract()
		hold(w, r)
	})
}

// hold answers, and returns when the request's body has come, which is one byte, or its connection
// has ended. Not with the connection alone: processes that R starts have copies of its
// sockets, so that it lasts as long as they do.
func hold(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if err := errors.Join(control.EnableFullDuplex(), control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	stop := context.AfterFunc(r.Context(), func() { _ = control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "noted")
	if control.Flush() == nil {
		_, _ = r.Body.Read(make([]byte, 1))
	}
}

// parseAnnouncement reads all but who says it.
func parseAnnouncement(r *http.Request) (a broker.Announcement, err error) {
	query := r.URL.Query()
	a.Session, a.Cluster = query.Get("session"), query.Get("cluster")
	for _, name := range []string{"session", "cluster"} {
		if n := len(query.Get(name)); n == 0 || n > maxName {
			return a, fmt.Errorf("%s: %d bytes, give a name of 1 to %d", name, n, maxName)
		}
	}
	a.Intent = broker.Intent(query.Get("intent"))
	if !slices.Contains(broker.Intents, a.Intent) {
		var all []string
		for _, intent := range broker.Intents {
			all = append(all, string(intent))
		}
		return a, fmt.Errorf("intent: %.100q, give one of %s", a.Intent, strings.Join(all, ", "))
	}
	text := query.Get("port")
	if text == "" && a.Intent == broker.ForOwn {
		return a, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return a, fmt.Errorf("port: %.100q is not a port number", text)
	}
	a.Port = uint16(port)
	return a, nil
}
