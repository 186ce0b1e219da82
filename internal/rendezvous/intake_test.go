package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// send is a stranger that writes p and waits for what comes of it.
func send(p string) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		conn := s.dial(t)
		if _, err := io.WriteString(conn, p); err != nil {
			t.Fatal(err)
		}
		drained(t, conn)
	}
}

// handshake is a stranger that speaks TLS, with a configuration of its own.
func handshake(config *tls.Config) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		conn := tls.Client(s.dial(t), config)
		// With TLS 1.3 a client is done before the server has looked at its
		// certificate: what it hears of that comes with the first read.
		if conn.Handshake() == nil {
			drained(t, conn)
		}
	}
}

// first is an agent whose first frame is of the given kind.
func first(client *tls.Config, kind link.Type, message any) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		conn := s.link(t, client)
		if err := conn.Send(kind, message); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := conn.Next(); err != nil {
				return
			}
		}
	}
}

// drained reads until the other side has closed the connection.
func drained(t *testing.T, conn net.Conn) {
	t.Helper()
	var timeout net.Error
	if _, err := io.Copy(io.Discard, conn); errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the connection was not closed")
	}
}

// Each stranger is refused, counted under its reason alone, and keeps nobody out.
func TestStrangersAreRefused(t *testing.T) {
	server, client := testkit.Certificates(t)
	_, foreign := testkit.Certificates(t)
	foreign.InsecureSkipVerify = true // it would refuse us first
	foreign.VerifyConnection = nil
	hello := agentHello("a")
	hello.Version++
	for _, tc := range []struct {
		name, reason string
		behave       func(*testing.T, *system)
	}{
		{"garbage", refusedTLS, send("\x00\xff\x80 this is nothing at all \x16\x16\x16")},
		{"HTTP", refusedTLS, send("GET / HTTP/1.1\r\nHost: rendezvous\r\n\r\n")},
		{"plain hello", refusedTLS, send("\x01\x00\x00\x02{}")},
		{"hangs up", refusedTLS, func(t *testing.T, s *system) { s.dial(t).Close() }},
		{"no certificate", refusedTLS, handshake(&tls.Config{InsecureSkipVerify: true, ServerName: mtls.ServerName})},
		{"old TLS", refusedTLS, handshake(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, ServerName: mtls.ServerName})},
		{"foreign CA", refusedTLS, handshake(foreign)},
		{"no hello", refusedProtocol, first(client, link.State, link.StateMessage{State: link.Warm})},
		{"nameless", refusedProtocol, first(client, link.Hello, link.HelloMessage{Version: link.Version, Slots: 1})},
		{"other version", refusedProtocol, first(client, link.Hello, hello)},
		{"hangs up after TLS", refusedProtocol, func(t *testing.T, s *system) { s.link(t, client).Close() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, server, nil)
			tc.behave(t, s)
			s.eventually(t, "the refusal to be counted", func() bool { return s.refusals(t) == 1 })
			if n := s.refused(t, tc.reason); n != 1 {
				t.Errorf("%g refused for %s, want 1", n, tc.reason)
			}
			s.join(t, client, "honest")
			s.eventually(t, "nobody to be pending", func() bool { return s.pending() == 0 })
			if n := s.refusals(t); n != 1 {
				t.Errorf("%g refusals after an honest agent, want 1", n)
			}
		})
	}
}

// Silence, and a hello of one byte at a time, are bounded as a whole.
func TestSlowStrangers(t *testing.T) {
	t.Parallel()
	server, client := testkit.Certificates(t)
	s := start(t, server, nil)
	mute := s.dial(t)
	silent, dribbling := s.link(t, client), s.dial(t)
	slow := tls.Client(dribbling, client)
	if err := slow.Handshake(); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		// A hello that is announced to have 16,000 bytes.
		for p := []byte{byte(link.Hello), 0, 0x3e, 0x80}; ; p = []byte{' '} {
			if _, err := slow.Write(p); err != nil {
				return
			}
			<-tick.C
		}
	}()
	s.join(t, client, "honest")
	drained(t, mute)
	if _, err := silent.Next(); err == nil {
		t.Error("the silent one was answered")
	}
	testkit.Receive(t, closed, "the slow one to be closed")
	s.eventually(t, "three refusals", func() bool { return s.refusals(t) == 3 })
	if mutes, others := s.refused(t, refusedTLS), s.refused(t, refusedProtocol); mutes != 1 || others != 2 {
		t.Errorf("%g refused for TLS, %g for the protocol; want 1 and 2", mutes, others)
	}
	if s.count(pool.Starting) != 1 {
		t.Errorf("the honest agent is gone: %+v", s.pool.Workers())
	}
}

// hosts is how many share a crowd: too few for each to be bounded, even if those of two
// crowds are there at once.
const hosts = 8

// host is the address of the i-th of them.
func host(i int) string { return fmt.Sprintf("127.0.1.%d", 1+i%hosts) }

// silent lets strangers be silent for as long as the machine needs to make a crowd.
func silent(c *pool.Config) { c.HelloLimit = time.Hour }

// However many are silent, they are bounded, and an agent gets in at once.
func TestSilentConnectionsAreBounded(t *testing.T) { // alone: it takes the whole machine
	s := start(t, nil, silent)
	for i := range maxPending {
		s.dialFrom(t, host(i))
	}
	s.eventually(t, "a crowd", func() bool { return s.pending() == maxPending })
	s.join(t, nil, "honest")
	// It pushed one out, and made room again when it had introduced itself.
	s.eventually(t, "one refusal", func() bool { return s.refused(t, refusedCrowded) == 1 })
	s.eventually(t, "its leave", func() bool { return s.pending() == maxPending-1 })
	const more = 20
	for range more {
		s.dial(t)
	}
	s.eventually(t, "more refusals", func() bool { return s.refused(t, refusedCrowded) == more })
	if n := s.refusals(t); n != more || s.pending() != maxPending {
		t.Errorf("%g refusals, %d pending; want %d and %d", n, s.pending(), more, maxPending)
	}
	s.join(t, nil, "another")
	if n := s.count(pool.Starting); n != 2 {
		t.Errorf("%d agents, want 2: one that is in is never pushed out", n)
	}
}

// A host that opens connections by the thousand and says nothing keeps nobody else out, and
// what it costs is bounded.
func TestIdleHost(t *testing.T) { // alone: it takes the whole machine
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	idle := int(min(10000, files.Cur-4*maxPending))
	server, client := testkit.Certificates(t)
	s := start(t, server, silent)
	began := time.Now()
	for range idle {
		s.dialFrom(t, "127.0.0.2")
	}
	stop := s.agents(t, client, 1)
	s.await(t, "the honest one", func() bool { return s.count(pool.Starting) == 1 })
	// Each is: at once, for the next one, or since it has said nothing for too long.
	s.await(t, "all others to be refused", func() bool { return int(s.refusals(t))+s.pending() >= idle })
	stop()
	if n := s.pending(); n > maxPending {
		t.Errorf("%d are pending, at most %d may be", n, maxPending)
	}
	if n := s.refused(t, refusedCrowded); n != 0 {
		t.Errorf("%g others were pushed out", n)
	}
	if n, most := s.warnings(), 1+int(time.Since(began)/complaintPace); n > most || n == 0 {
		t.Errorf("%d lines about one host, want 1 to %d", n, most)
	}
}

// Strangers that leave just when they are pushed out are counted once, all the same.
func TestCrowdLeaves(t *testing.T) { // alone: it takes the whole machine
	s := start(t, nil, silent)
	var crowd []net.Conn
	for i := range maxPending {
		crowd = append(crowd, s.dialFrom(t, host(i)))
	}
	s.eventually(t, "a crowd", func() bool { return s.pending() == maxPending })
	left := make(chan struct{})
	go func() {
		defer close(left)
		for _, conn := range crowd {
			conn.Close()
		}
	}()
	for i := range maxPending {
		s.dialFrom(t, host(i+hosts/2))
	}
	testkit.Receive(t, left, "the crowd to leave")
	s.eventually(t, "the old crowd to be counted", func() bool { return s.refusals(t) >= maxPending })
	s.eventually(t, "the new crowd", func() bool { return float64(s.pending()) == 2*maxPending-s.refusals(t) })
}

// A pool that is full tells the agent why.
func TestFullPool(t *testing.T) {
	t.Parallel()
	s := start(t, nil, func(c *pool.Config) { c.MaxWorkers = 1 })
	s.join(t, nil, "a")
	conn := s.link(t, nil)
	if err := conn.Send(link.Hello, agentHello("b")); err != nil {
		t.Fatal(err)
	}
	frame, err := conn.Next()
	if err != nil || frame.Type != link.Reject {
		t.Fatalf("got %v, %v; want reject", frame.Type, err)
	}
	s.eventually(t, "the refusal to be counted", func() bool { return s.refused(t, refusedProtocol) == 1 })
}

// brokenListener fails once, as one does that is out of file descriptors.
type brokenListener struct {
	net.Listener
	failures []error
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if len(l.failures) > 0 {
		err := l.failures[0]
		l.failures = l.failures[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

func TestAcceptFails(t *testing.T) {
	t.Parallel()
	s := startOn(t, nil, nil, func(l net.Listener) net.Listener {
		return &brokenListener{l, []error{syscall.EMFILE, syscall.ECONNABORTED}}
	})
	conn := s.join(t, nil, "a")
	conn.StartHeartbeat()
	s.listener.Close()
	// Without a listener the rendezvous has to end, and with it the connections:
	// an agent's own heartbeats would keep them for good.
	if _, err := conn.Next(); err == nil {
		t.Error("the agent's connection goes on")
	}
	if err := testkit.Receive(t, s.ended, "the end"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a listener that is closed: %v", err)
	}
}

// All agents dial at once, as after a restart of the rendezvous, from one address, and more
// than may be pending: every one gets in.
func TestAllAtOnce(t *testing.T) { // alone: it takes the whole machine
	server, client := testkit.Certificates(t)
	const agents = maxPending + maxPending/2
	s := start(t, server, func(c *pool.Config) { c.MaxWorkers = agents })
	stop := s.agents(t, client, agents)
	s.await(t, "all agents", func() bool { return s.count(pool.Starting) == agents })
	stop()
}

// agents are n that are there until stop is called: each dials again when it does not get in
// or is lost, as one is whose machine does not let it send its heartbeats.
func (s *system) agents(t *testing.T, client *tls.Config, n int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var dialling sync.WaitGroup
	for i := range n {
		dialling.Go(func() {
			for ctx.Err() == nil {
				s.takesPart(ctx, client, fmt.Sprint(i))
				redial := time.NewTimer(600 * time.Millisecond) // the pause of an agent, see docs/protocol.md
				select {
				case <-redial.C:
				case <-ctx.Done():
					redial.Stop()
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); dialling.Wait() })
	t.Cleanup(stop)
	return stop
}

// takesPart is what an agent does with one connection, until that ends.
func (s *system) takesPart(ctx context.Context, client *tls.Config, name string) {
	conn, err := link.Dial(ctx, s.listener.Addr().String(), client, link.Timing{})
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if conn.Send(link.Hello, agentHello(name)) != nil {
		return
	}
	for {
		frame, err := conn.Next()
		if err != nil {
			return
		}
		if frame.Type == link.Welcome {
			conn.StartHeartbeat()
		}
	}
}

// Who is in the middle of a handshake is not sent away for the next one.
func TestRoomForYoungStrangers(t *testing.T) {
	t.Parallel()
	s := start(t, nil, nil)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	addresses := byte(0)
	from := func() netip.Addr { addresses++; return netip.AddrFrom4([4]byte{10, 0, 0, addresses}) } // several strangers have each
	young := &stranger{Conn: ours, came: time.Now().Add(time.Hour), from: from()}
	s.add(young)
	for range maxPending - 2 {
		s.add(&stranger{Conn: ours, came: young.came, from: from()})
	}
	if wait := s.makeRoom(); wait != 0 {
		t.Errorf("waits %s although there is room", wait)
	}
	leave := s.add(&stranger{Conn: ours, came: young.came, from: from()})
	if wait := s.makeRoom(); wait <= crowdPatience || s.wasCrowdedOut(young) != "" {
		t.Errorf("waits %s, crowded out: %q", wait, s.wasCrowdedOut(young))
	}
	leave()
	if wait := s.makeRoom(); wait != 0 {
		t.Errorf("waits %s although one has left", wait)
	}
	young.came = time.Now().Add(-crowdPatience)
	s.add(&stranger{Conn: ours, came: time.Now(), from: from()})
	if wait := s.makeRoom(); wait != 0 || s.wasCrowdedOut(young) != refusedCrowded {
		t.Errorf("waits %s for the old one, crowded out: %q", wait, s.wasCrowdedOut(young))
	}
}

// A host has all places while no other needs one, then makes room for others alone, and has
// its places back when its connections end, each once.
func TestRoomOfOneAddress(t *testing.T) {
	t.Parallel()
	s := start(t, nil, nil)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	here, there := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	old := &stranger{Conn: ours, came: time.Now().Add(-time.Hour), from: here}
	leave := s.add(old)
	var youngest *stranger
	for range maxPending - 1 {
		if s.full(here) {
			t.Fatal("there is no room, and not all of it is taken")
		}
		youngest = &stranger{Conn: ours, came: time.Now(), from: here}
		s.add(youngest)
	}
	if !s.full(here) || s.full(there) {
		t.Errorf("full here: %v, there: %v", s.full(here), s.full(there))
	}
	for range maxPendingEach {
		if wait := s.makeRoom(); wait != 0 {
			t.Fatalf("one of another address waits %s", wait)
		}
		s.add(&stranger{Conn: ours, came: time.Now(), from: there})
	}
	if s.wasCrowdedOut(youngest) != refusedAddress || s.wasCrowdedOut(old) != "" {
		t.Errorf("crowded out: the youngest %q, the oldest %q", s.wasCrowdedOut(youngest), s.wasCrowdedOut(old))
	}
	if !s.full(here) || !s.full(there) || s.pending() != maxPending {
		t.Errorf("full here: %v, there: %v; %d are pending", s.full(here), s.full(there), s.pending())
	}
	leave()
	leave()
	if s.full(here) || s.pending() != maxPending-1 {
		t.Errorf("full although one has left: %v; %d are pending", s.full(here), s.pending())
	}
}

// On loopback without TLS a process of a user who has no part in this is refused,
// and so is one whose user cannot be told.
func TestForeignUser(t *testing.T) {
	t.Parallel()
	ours, theirs := testkit.Pair(t)
	for name, tc := range map[string]struct {
		uid     uint32
		err     error
		tls     *tls.Config
		refused bool
	}{
		"own":          {uid: uint32(os.Geteuid())},
		"session":      {uid: 4711},
		"root":         {uid: 0},
		"foreign":      {uid: 12345, refused: true},
		"unknown":      {err: sockdiag.ErrNotFound, refused: true},
		"foreign, TLS": {uid: 12345, tls: &tls.Config{}},
	} {
		in := &intake{tls: tc.tls, uids: []uint32{0, uint32(os.Geteuid()), 4711}, peerUID: func(local, remote net.Addr) (uint32, error) {
			if local.String() != ours.LocalAddr().String() || remote.String() != theirs.LocalAddr().String() {
				t.Errorf("asked for the owner of %s to %s", local, remote)
			}
			return tc.uid, tc.err
		}}
		if err := in.checkUser(ours); (err != nil) != tc.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}
