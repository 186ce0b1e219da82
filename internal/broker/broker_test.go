package broker_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// exec is the beginning of serialize(list("EXEC", raw()), xdr = FALSE).
const exec = "B\n\x02\x00\x00\x00\x02\x02\x04\x00\x00\x03\x02\x00\x13\x00\x00\x00\x02\x00\x00\x00\x10\x00\x00\x00\x01\x00\x00\x00" +
	"\x09\x00\x04\x00\x04\x00\x00\x00EXEC\x18\x00\x00\x00\x00\x00\x00\x00"

// echo sends text and reads it back from the worker.
func echo(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

// Two sessions, one of them with two nodes on one port; afterwards the pool is full.
func TestNodesGetWorkers(t *testing.T) {
	s := start(t, patience)
	for _, name := range []string{"a", "b", "c"} {
		s.agent(name)
	}
	first := s.listen(0, uid)
	one := first.connect()
	again := s.listen(first.port, uid)
	two := again.connect()
	three := s.listen(0, uid).connect()
	for _, conn := range []net.Conn{one, two, three} {
		echo(t, conn, exec)
	}
	clusters := s.Clusters()
	if len(clusters) != 2 || len(clusters[0].Nodes) != 2 || len(clusters[1].Nodes) != 1 || clusters[0].UID != uid {
		t.Errorf("clusters %+v", clusters)
	}
	// A session gives back its own workers before it takes new ones.
	for port, want := range map[int]int{0: 0, first.port: 2} {
		for _, plan := range []bool{false, true} { // none of these has shown that it runs futures
			if got := s.Available(uid, "session", []uint16{uint16(port)}, plan); got != want {
				t.Errorf("Available(%d) is %d, want %d", port, got, want)
			}
		}
	}
	if got := s.Available(uid+1, "session", []uint16{uint16(first.port)}, false); got != 0 {
		t.Errorf("Available of another user is %d, want 0", got)
	}
	for _, conn := range []net.Conn{one, two, three} {
		conn.Close()
	}
	s.eventually("three warm workers", func() bool { return s.count(pool.Warm) == 3 })
	s.eventually("no cluster", func() bool { return len(s.Clusters()) == 0 })
	if n := s.metric("rendezvous_binds_total"); n != 3 {
		t.Errorf("%g binds, want 3", n)
	}
}

// A session that goes away before it has said anything gives its worker back.
func TestSessionThatGoes(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	conn := s.listen(0, uid).connect()
	s.eventually("a reserved worker", func() bool { return s.count(pool.Reserved) == 1 })
	conn.Close()
	s.eventually("the worker's return", func() bool { return s.count(pool.Warm) == 1 })
	waits := s.listen(0, uid)
	conn = waits.connect()
	echo(t, conn, exec)
}

// A worker that dies before the session has said anything is replaced, and the
// session does not notice.
func TestWorkerThatDiesEarly(t *testing.T) {
	s := start(t, patience)
	a := s.agent("a")
	conn := s.listen(0, uid).connect()
	s.eventually("a reserved worker", func() bool { return s.count(pool.Reserved) == 1 })
	s.agent("b")
	a.Close()
	s.eventually("the other worker", func() bool { return s.count(pool.Reserved) == 1 && s.count(pool.Warm) == 0 })
	echo(t, conn, exec)
}

// No worker in time: an R error for the node that waited, and at once for the
// cluster's others; the workers that were held are free again.
func TestUnmetDemand(t *testing.T) {
	s := start(t, short)
	s.agent("a")
	first := s.listen(0, uid)
	conns := []net.Conn{first.connect()}
	for range 2 {
		conns = append(conns, s.listen(first.port, uid).connect())
	}
	echo(t, conns[0], exec)
	for _, conn := range conns[1:] {
		for range 2 { // every call is answered
			if _, err := io.WriteString(conn, exec); err != nil {
				t.Fatal(err)
			}
			answer := readMessage(t, conn)
			if !strings.Contains(answer, "1 of 1 workers are ready; node 2 waited") || !strings.Contains(answer, "ask for at most 1") {
				t.Errorf("the R error is %q", answer)
			}
		}
	}
	for _, conn := range conns {
		conn.Close()
	}
	s.eventually("the worker's return", func() bool { return s.count(pool.Warm) == 1 })
	if n := s.metric("rendezvous_unmet_demand_total"); n != 2 {
		t.Errorf("unmet demand is %g, want 2", n)
	}
}

// R listens for its next node as soon as one is connected: that one is refused with it,
// however the two are seen.
func TestUnmetDemandSeenTogether(t *testing.T) {
	t.Parallel()
	s := start(t, 6*short) // longer than a refusal holds
	listener := s.listen(0, uid)
	refused := listener.accept()
	unlist := s.table.add(listener.port, uid) // and the first one still listens
	next := listener.accept()
	listener.unlist()
	unlist()
	for i, conn := range []net.Conn{next, refused} {
		if _, err := io.WriteString(conn, exec); err != nil {
			t.Fatal(err)
		}
		if answer := readMessage(t, conn); !strings.Contains(answer, "; node 1 waited") {
			t.Errorf("%d: the R error is %q", i, answer)
		}
	}
}

// A session gets no more than it may have, and is told so.
func TestSessionWorkers(t *testing.T) {
	s := startWith(t, func(c *broker.Config) { c.DemandTimeout, c.SessionWorkers = short, 2 })
	for _, name := range []string{"a", "b", "c"} {
		s.agent(name)
	}
	if n := s.Available(uid, "session", nil, false); n != 2 {
		t.Errorf("%d are available, want 2", n)
	}
	first := s.listen(0, uid)
	conns := []net.Conn{first.connect()}
	for range 2 {
		conns = append(conns, s.listen(first.port, uid).connect())
	}
	for _, conn := range conns[:2] {
		echo(t, conn, exec)
	}
	if _, err := io.WriteString(conns[2], exec); err != nil {
		t.Fatal(err)
	}
	if answer := readMessage(t, conns[2]); !strings.Contains(answer, "(2 in use by this cluster, 0 by others); --session-workers is 2: ask for at most 2") {
		t.Errorf("the R error is %q", answer)
	}
	if n := s.count(pool.Warm); n != 1 {
		t.Errorf("%d workers are free, want 1", n)
	}
	echo(t, s.listen(0, uid).connect(), exec) // another session has its own
}

// Worker pods without an agent here are named with Kubernetes' reason; one whose agent
// is connected is not named twice.
func TestUnmetDemandNamesPods(t *testing.T) {
	missing := []pods.Pod{{Name: "a", Reason: "not ready yet"}, {Name: "b", Reason: "ImagePullBackOff: no such image"}}
	s := startWith(t, func(c *broker.Config) {
		c.DemandTimeout = short
		c.Missing = func() []pods.Pod { return slices.Clone(missing) }
	})
	s.agent("a")
	first := s.listen(0, uid)
	first.connect()
	second := s.listen(first.port, uid).connect()
	if _, err := io.WriteString(second, exec); err != nil {
		t.Fatal(err)
	}
	answer := readMessage(t, second)
	want := "1 of 2 workers are ready; node 2 waited "
	if !strings.Contains(answer, want) || !strings.Contains(answer, "; b: ImagePullBackOff: no such image") || strings.Contains(answer, "not ready yet") {
		t.Errorf("the R error is %q, want %q and b's reason, and not a's", answer, want)
	}
	if got := s.MissingPods(); !slices.Equal(got, missing[1:]) {
		t.Errorf("MissingPods: %v", got)
	}
}

// readMessage reads one serialized object.
func readMessage(t *testing.T, conn net.Conn) string {
	t.Helper()
	var scanner psock.Scanner
	var all []byte
	p := make([]byte, 1)
	for {
		if _, err := conn.Read(p); err != nil {
			t.Fatalf("after %q: %v", all, err)
		}
		all = append(all, p...)
		if _, done := scanner.Scan(p); done {
			if m := scanner.Message(); m.Kind != psock.KindValue || m.Success {
				t.Fatalf("the answer is %+v", m)
			}
			return string(all)
		}
	}
}

// The kernel does not answer: said once, and looked on.
func TestListenersFail(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	s.table.fail(errors.New("no netlink today"))
	s.Hint()
	said := func() int { return s.log.FilterMessageSnippet("cannot list listening sockets").Len() }
	s.eventually("the complaint", func() bool { return said() == 1 })
	s.table.mu.Lock()
	before := s.table.looks
	s.table.mu.Unlock()
	s.eventually("more looks", func() bool {
		s.table.mu.Lock()
		defer s.table.mu.Unlock()
		return s.table.looks > before+2
	})
	if n := said(); n != 1 {
		t.Errorf("complained %d times, want once", n)
	}
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "no netlink today") {
		t.Errorf("ready although no session is seen: %v", err)
	}
	s.table.fail(nil)
	echo(t, s.listen(0, uid).connect(), exec)
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
}

// Two sessions set up their nodes by turns, on fewer workers than they need
// together. The older gets all it needs, the younger when the older has gone.
func TestTwoSessionsAtOnce(t *testing.T) {
	s := start(t, patience)
	for _, name := range []string{"a", "b", "c"} {
		s.agent(name)
	}
	listener := s.listen(0, uid)
	older := []net.Conn{listener.connect()}
	next := s.listen(0, uid)
	younger := []net.Conn{next.connect()}
	older = append(older, s.listen(listener.port, uid).connect())
	s.eventually("no worker to be left", func() bool { return s.count(pool.Reserved) == 3 })
	next = s.listen(next.port, uid)
	s.eventually("a node that waits", func() bool { _, n := s.pool.Counts(); return n == 1 })
	older = append(older, s.listen(listener.port, uid).connect())
	s.eventually("two nodes that wait", func() bool { _, n := s.pool.Counts(); return n == 2 })
	for _, conn := range older {
		echo(t, conn, exec)
	}
	for _, conn := range older {
		conn.Close()
	}
	younger = append(younger, next.connect())
	for _, conn := range younger {
		echo(t, conn, exec)
	}
}

// The younger session is done with its nodes in the moment in which one of its
// workers is recalled: it comes first then, and both end.
func TestRecalledTooLate(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	s.agent("b")
	first := s.listen(0, uid)
	older := []net.Conn{first.connect()}
	younger := s.listen(0, uid).connect()
	s.eventually("both workers to be held", func() bool { return s.count(pool.Reserved) == 2 })
	again := s.listen(first.port, uid) // recalls the younger one's
	older = append(older, again.connect())
	s.eventually("the younger one's node to wait", func() bool { _, n := s.pool.Counts(); return n == 1 })
	echo(t, younger, exec) // recalls an older one's
	s.eventually("an older one's node to wait", func() bool { _, n := s.pool.Counts(); return n == 1 })
	younger.Close()
	for _, conn := range older {
		echo(t, conn, exec)
	}
}

// A plan's nodes are connected without workers. That a port was listened on for a moment
// before, as parallelly does to try it out, is nothing of the plan's.
func TestPlanNeedsNoWorkers(t *testing.T) {
	s := start(t, patience)
	trial := s.listen(0, uid)
	s.eventually("the trial to be seen", func() bool { return len(s.Clusters()) == 1 })
	trial.listener.Close()
	trial.unlist()
	s.eventually("the trial to be over", func() bool { return len(s.Clusters()) == 0 })
	s.listenAs(broker.Announcement{Intent: broker.ForFutures}).connect()
	s.eventually("a node without a worker", func() bool {
		clusters := s.Clusters()
		return len(clusters) == 1 && clusters[0].Nodes[0].State == "vacant"
	})
	// The next cluster is none that was announced.
	s.listen(0, uid)
	s.eventually("a node that waits", func() bool {
		clusters := s.Clusters()
		return len(clusters) == 2 && clusters[1].Nodes[0].State == "waiting"
	})
}
