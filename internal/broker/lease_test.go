package broker_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// leases is a book with one lease.
type leases struct {
	mu    sync.Mutex
	terms lease.Terms
	held  []*pool.Worker
	news  []string
}

func (l *leases) Lease(port uint16) (lease.Terms, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.terms, port == l.terms.Port
}

func (l *leases) Take(port uint16) (*pool.Worker, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if port != l.terms.Port || len(l.held) == 0 {
		return nil, false
	}
	w := l.held[0]
	l.held = l.held[1:]
	return w, true
}

func (l *leases) Connected(port uint16) { l.note("connected", port) }
func (l *leases) Ended(port uint16)     { l.note("ended", port) }

func (l *leases) note(what string, port uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.news = append(l.news, fmt.Sprint(what, " ", port == l.terms.Port))
}

func (l *leases) Held() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.held {
		names = append(names, w.Name())
	}
	return names
}

func (l *leases) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.news)
}

// lend makes a lease on port, for a user, and reserves n workers of the group for it.
func (l *leases) lend(t *testing.T, s *system, port uint16, user uint32, group string, n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.terms = lease.Terms{ID: "k3", Port: port, UID: user, Group: group, Tenant: s.pool.NewTenant("lease", 0)}
	for range n {
		w, err := s.pool.Acquire(t.Context(), pool.Want{Tenant: l.terms.Tenant, Group: group, Whole: true})
		if err != nil {
			t.Fatal(err)
		}
		l.held = append(l.held, w)
	}
}

// The nodes of a leased port get the lease's workers, and others of its group when
// those are used up; the book hears of the cluster's beginning and end.
func TestLease(t *testing.T) {
	book := &leases{}
	s := startWith(t, func(c *broker.Config) { c.Leases = book })
	s.agentOf("plain", "")
	s.agentOf("big-1", "big")
	s.agentOf("big-2", "big")
	first := s.listen(0, uid+1) // nobody serves it yet
	first.unlist()
	book.lend(t, s, uint16(first.port), uid, "big", 1)
	if n, big := s.Available(uid, "session", nil, false), s.AvailableIn("big", uid, nil); n != 2 || big != 1 {
		t.Errorf("%d are available, %d of the group; want 2 and 1", n, big)
	}
	reserved := book.Held()[0]
	// That another session starts workers of its own, it does not say where, changes nothing.
	s.announce(broker.Announcement{Session: "another", Cluster: "1", Intent: broker.ForOwn})
	first.unlist = s.table.add(first.port, uid)
	one := first.connect()
	again := s.listen(first.port, uid)
	two := again.connect()
	echo(t, one, exec)
	echo(t, two, exec)
	clusters := s.Clusters()
	if len(clusters) != 1 || len(clusters[0].Nodes) != 2 {
		t.Fatalf("clusters %+v", clusters)
	}
	for _, n := range clusters[0].Nodes {
		if n.Worker != "big-1/0" && n.Worker != "big-2/0" {
			t.Errorf("a node has %s", n.Worker)
		}
	}
	if clusters[0].Nodes[0].Worker != reserved && clusters[0].Nodes[1].Worker != reserved {
		t.Errorf("nobody has %s, which was reserved: %+v", reserved, clusters[0].Nodes)
	}
	if n, own := s.AvailableIn("big", uid, nil), s.AvailableIn("big", uid, []uint16{uint16(first.port)}); n != 0 || own != 2 {
		t.Errorf("%d are available, and %d to a session that gives them up; want 0 and 2", n, own)
	}
	for _, share := range []bool{false, true} { // both are in a call
		if text, coming := s.Outlook("big", share); text != "2 in use" || coming != share {
			t.Errorf("the outlook is %q, %v", text, coming)
		}
	}
	if _, coming := s.Outlook("default", true); coming {
		t.Error("what another group does is hope for this one")
	}
	one.Close()
	two.Close()
	s.eventually("the cluster's end", func() bool { return slices.Contains(book.told(), "ended true") })
	if told := book.told(); told[0] != "connected true" {
		t.Errorf("the book was told %q", told)
	}
}

// A session of another user that listens on a leased port has no part in the lease.
func TestLeaseOfAnotherUser(t *testing.T) {
	book := &leases{}
	s := startWith(t, func(c *broker.Config) { c.Leases = book })
	s.agentOf("plain", "")
	s.agentOf("big", "big")
	listener := s.listen(0, uid+1)
	listener.unlist()
	book.lend(t, s, uint16(listener.port), uid+1, "big", 1)
	listener.unlist = s.table.add(listener.port, uid)
	conn := listener.connect()
	echo(t, conn, exec)
	if worker := s.Clusters()[0].Nodes[0].Worker; worker != "plain/0" {
		t.Errorf("it has %s", worker)
	}
	conn.Close()
	s.eventually("its end", func() bool { return len(s.Clusters()) == 0 })
	if told := book.told(); len(told) > 0 {
		t.Errorf("the book was told %q", told)
	}
}

// What a lease is told while it waits, and when it has waited in vain.
func TestLeaseTexts(t *testing.T) {
	s := startWith(t, func(c *broker.Config) {
		c.Missing = func() []pods.Pod { return []pods.Pod{{Name: "pod-x", Reason: "ContainerCreating"}} }
	})
	if text, coming := s.Outlook("big", false); text != "pod-x: ContainerCreating" || coming {
		t.Errorf("the outlook is %q, %v", text, coming)
	}
	s.agentOf("plain", "")
	s.agentOf("big", "big")
	w, err := s.pool.Acquire(context.Background(), pool.Want{Tenant: s.pool.NewTenant("lease", 0), Group: "big", Whole: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Lacking("big", 1, 3, time.Minute), "1 of 2 workers are ready; a lease of 3 waited 1m0s (1 reserved for it, 0 in use by others); pod-x: ContainerCreating"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got, want := s.Lacking("default", 0, 3, time.Minute), "1 of 2 workers are ready; a lease of 3 waited 1m0s; pod-x: ContainerCreating"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	w.Release()
	groups := s.Groups()
	slices.Sort(groups)
	if fmt.Sprint(groups) != "[big default]" {
		t.Errorf("the groups are %v", groups)
	}
	listener := s.listen(0, uid+1)
	occupied, err := s.Occupied()
	if err != nil || !occupied[uint16(listener.port)] || len(occupied) != 1 {
		t.Errorf("occupied are %v, %v", occupied, err)
	}
	s.table.fail(fmt.Errorf("no netlink"))
	if _, err := s.Occupied(); err == nil {
		t.Error("nobody sees what is occupied, and that is no error")
	}
}
