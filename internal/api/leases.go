package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/lease"
)

// Leases is the book of leases, just what this package needs of it.
type Leases interface {
	Open(uid uint32, request lease.Request) (lease.Snapshot, error)
	Wait(ctx context.Context, uid uint32, id string, version int, limit time.Duration) (lease.Snapshot, error)
	Close(uid uint32, id string) error
	List() []lease.Snapshot
}

// errStranger: the caller is no user whose sessions are served.
var errStranger = errors.New("this is for the users whose R sessions are served (--session-uids)")

// handleLeases adds the leases' part to mux.
func handleLeases(mux *http.ServeMux, source Source) {
	mux.HandleFunc("POST /v1/leases", func(w http.ResponseWriter, r *http.Request) {
		uid, err := source.caller(r)
		if err != nil {
			fail(w, err)
			return
		}
		if !speaksJSON(w, r) {
			return
		}
		request, err := lease.DecodeRequest(http.MaxBytesReader(w, r.Body, lease.MaxRequest))
		if err != nil {
			status := http.StatusBadRequest
			if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
				status = http.StatusRequestEntityTooLarge
			}
			http.Error(w, err.Error(), status)
			return
		}
		snapshot, err := source.Leases.Open(uid, request)
		source.answer(w, http.StatusCreated, snapshot, err)
	})
	mux.HandleFunc("GET /v1/leases/{id}", func(w http.ResponseWriter, r *http.Request) {
		uid, err := source.caller(r)
		if err != nil {
			fail(w, err)
			return
		}
		wait, version, err := parseWait(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := extend(w, wait); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		snapshot, err := source.Leases.Wait(r.Context(), uid, r.PathValue("id"), version, wait)
		source.answer(w, http.StatusOK, snapshot, err)
	})
	mux.HandleFunc("DELETE /v1/leases/{id}", func(w http.ResponseWriter, r *http.Request) {
		uid, err := source.caller(r)
		if err == nil {
			err = source.Leases.Close(uid, r.PathValue("id"))
		}
		if err != nil {
			fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /v1/leases", func(w http.ResponseWriter, r *http.Request) {
		uid, err := source.caller(r)
		if err != nil {
			fail(w, err)
			return
		}
		own := slices.DeleteFunc(source.Leases.List(), func(s lease.Snapshot) bool { return s.UID != uid })
		writeJSON(w, http.StatusOK, own)
	})
}

// caller is the user whose process asks, if it is one whose sessions are served.
func (s Source) caller(r *http.Request) (uint32, error) {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !ok {
		return 0, fmt.Errorf("%w: the connection has no addresses", errStranger)
	}
	uid, err := s.PeerUID(local, net.TCPAddrFromAddrPort(remote))
	if err != nil {
		return 0, fmt.Errorf("%w: cannot tell whose process asks: %w", errStranger, err)
	}
	if !slices.Contains(s.UIDs, uid) {
		return 0, fmt.Errorf("%w; this process belongs to user %d", errStranger, uid)
	}
	return uid, nil
}

// answer writes a lease, or why there is none. A session that is to connect will
// listen in a moment.
func (s Source) answer(w http.ResponseWriter, status int, snapshot lease.Snapshot, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	if snapshot.State == lease.Ready {
		s.Hint()
	}
	writeJSON(w, status, snapshot)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error is the client's going away.
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	for kind, code := range map[error]int{
		errStranger: http.StatusForbidden, broker.ErrAnnouncements: http.StatusTooManyRequests, lease.ErrOwner: http.StatusForbidden, lease.ErrUnknown: http.StatusNotFound,
		lease.ErrNever: http.StatusConflict, lease.ErrBusy: http.StatusTooManyRequests, lease.ErrEnding: http.StatusServiceUnavailable,
	} {
		if errors.Is(err, kind) {
			status = code
		}
	}
	http.Error(w, err.Error(), status)
}

// parseWait reads how long the caller will wait for news, and for news since when.
func parseWait(r *http.Request) (wait time.Duration, version int, err error) {
	query := r.URL.Query()
	version = -1
	if text := query.Get("wait"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || !(seconds >= 0 && seconds <= lease.MaxWait.Seconds()) {
			return 0, 0, fmt.Errorf("wait: %q, give 0 to %g seconds", text, lease.MaxWait.Seconds())
		}
		wait = time.Duration(seconds * float64(time.Second))
	}
	if text := query.Get("version"); text != "" {
		if version, err = strconv.Atoi(text); err != nil || version < 0 {
			return 0, 0, fmt.Errorf("version: %q, give that of the last answer", text)
		}
	}
	return wait, version, nil
}

// extend lets the request last longer than others may. Reading is what tells the
// server that its client has hung up, and must not time out meanwhile either.
func extend(w http.ResponseWriter, wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	const rest = 10 * time.Second // for the answer itself
	control := http.NewResponseController(w)
	until := time.Now().Add(wait + rest)
	return errors.Join(control.SetReadDeadline(until), control.SetWriteDeadline(until))
}
