// Package api is the loopback interface of the rendezvous: the live number of
// workers for the R profile, and the whole state for people and programs.
package api

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
)

// State is what the rendezvous knows at one moment.
type State struct {
	Build    string                   `json:"build"`
	Backend  string                   `json:"backend"` // how demand is seen: netlink or procfs
	Workers  []pool.Snapshot          `json:"workers"`
	Pods     []pods.Pod               `json:"pods,omitempty"` // worker pods that have no slot here, and why
	Clusters []broker.ClusterSnapshot `json:"clusters"`
	Leases   []lease.Snapshot         `json:"leases,omitempty"`
	Scaling  []scaler.Snapshot        `json:"scaling,omitempty"` // of the groups that are scaled
}

// Source is what the handler needs of the rendezvous.
type Source struct {
	State     func() State
	Available func(uid uint32, session string, ports []uint16, plan bool) int // broker.Broker.Available
	Announce  func(broker.Announcement) (retract func(), err error)           // broker.Broker.Announce
	Hint      func()                                                          // broker.Broker.Hint
	Outlook   func() string                                                   // broker.Broker.PlanOutlook
	// Once is broker.Broker.Once.
	Once func(uid uint32, session string, ports []uint16, once bool) (nodes int)
	// Nodes is broker.Broker.Nodes.
	Nodes  func(uid uint32, port uint16, peers []uint16) int
	Leases Leases
	// PeerUID and UIDs are those of broker.Config: leases are a user's own.
	PeerUID func(local, remote net.Addr) (uint32, error)
	UIDs    []uint32
}

// maxPorts bounds the ports that a session may name; R has 128 connections.
const maxPorts = 1024

// Handler serves programs of this network namespace, see guarded:
//
//	GET /v1/workers?session=S&ports=P,Q&plan=true
//	                            text/plain: how many workers session S may ask
//	                            for; P, Q are ports of its clusters that
//	                            it is about to give back;
//	                            plan says that plan() asks, whose
//	                            nodes take turns with those of others. The
//	                            header Outlook says for what they will wait,
//	                            when no worker is ready and some are started
//	POST /v1/listeners?session=S&cluster=C&port=P&intent=I
//	                            text/plain: session S is about to listen on P for
//	                            the nodes of its cluster C, until the body of this
//	                            request comes, which is one byte, or its connection
//	                            ends. intent: the nodes are to have a
//	                            worker each (workers) or to take turns (futures),
//	                            or the session starts its workers itself (own,
//	                            which may leave out the port: on any)
//	POST /v1/once?session=S&ports=P,Q&once=true
//	                            text/plain: of how many nodes of the session's
//	                            clusters on these ports the futures now run once at
//	                            most; once=false lets them run again
//	GET /v1/nodes?port=P&peers=A,B
//	                            text/plain: how many connections of nodes of the
//	                            user's clusters on port P the rendezvous has; with
//	                            peers, those that have one of these ports on its side
//	GET /v1/state               application/json: a State
//	POST /v1/leases             application/json: a lease.Request for a lease.Snapshot
//	GET /v1/leases/ID?wait=S&version=V
//	                            application/json: the lease.Snapshot, which this
//	                            renews; while the lease waits for workers, when it is
//	                            another than version V, or after S seconds
//	DELETE /v1/leases/ID        gives the lease back
//	GET /v1/leases              application/json: the caller's leases
func Handler(source Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/workers", func(w http.ResponseWriter, r *http.Request) {
		ports, err := parsePorts("ports", r.URL.Query().Get("ports"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		plan := r.URL.Query().Get("plan") == "true"
		uid, err := source.caller(r)
		if err != nil {
			ports = nil // nobody else's clusters are served
		}
		n := source.Available(uid, r.URL.Query().Get("session"), ports, plan)
		if plan {
			if text := source.Outlook(); text != "" {
				w.Header().Set("Outlook", text)
			}
		}
		source.Hint()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("POST /v1/once", func(w http.ResponseWriter, r *http.Request) {
		ports, err := parsePorts("ports", r.URL.Query().Get("ports"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		once, err := strconv.ParseBool(r.URL.Query().Get("once"))
		if err != nil {
			http.Error(w, fmt.Sprintf("once: %q, want true or false", r.URL.Query().Get("once")), http.StatusBadRequest)
			return
		}
		uid, err := source.caller(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, source.Once(uid, r.URL.Query().Get("session"), ports, once))
	})
	handleListeners(mux, source)
	handleNodes(mux, source)
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An error is the client's going away.
		_ = json.NewEncoder(w).Encode(source.State())
	})
	handleLeases(mux, source)
	return guarded(mux)
}

// parsePorts reads the list that the parameter called name has.
func parsePorts(name, list string) ([]uint16, error) {
	if list == "" {
		return nil, nil
	}
	fields := strings.Split(list, ",")
	if len(fields) > maxPorts {
		return nil, fmt.Errorf("%s: %d given, at most %d are taken", name, len(fields), maxPorts)
	}
	ports := make([]uint16, 0, len(fields))
	for _, field := range fields {
		port, err := strconv.ParseUint(field, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no port number; give them separated by commas", name, field)
		}
		ports = append(ports, uint16(port))
	}
	return ports, nil
}
