package discovery_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// server is a DNS server on a UDP port of loopback. Names that it does not know
// do not exist.
type server struct {
	conn net.PacketConn
	done chan struct{}

	mu      sync.Mutex
	asked   *sync.Cond
	hosts   map[string][]netip.Addr
	records map[string][]dnsmessage.SRVResource
	failing bool
	count   map[string]int // questions for A and SRV records, by name
}

func serve(t *testing.T) *server {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{conn: conn, done: make(chan struct{}), hosts: map[string][]netip.Addr{},
		records: map[string][]dnsmessage.SRVResource{}, count: map[string]int{}}
	s.asked = sync.NewCond(&s.mu)
	go s.run()
	t.Cleanup(func() { conn.Close(); <-s.done })
	return s
}

func (s *server) run() {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		s.answer(&m)
		if out, err := m.Pack(); err == nil {
			_, _ = s.conn.WriteTo(out, from)
		}
	}
}

func (s *server) answer(m *dnsmessage.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	if q.Type != dnsmessage.TypeAAAA {
		s.count[name]++
		s.asked.Broadcast()
	}
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true}
	m.Additionals = nil
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
	for _, ip := range s.hosts[name] {
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	for _, r := range s.records[name] {
		if q.Type == dnsmessage.TypeSRV {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &r})
		}
	}
	if s.failing {
		m.RCode = dnsmessage.RCodeServerFailure
		m.Answers = nil
	} else if len(s.hosts[name])+len(s.records[name]) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
}

// set changes the records of a name.
func (s *server) set(name string, hosts ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[name] = hosts
}

func (s *server) fail(failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = failing
}

// rounds returns when name has been asked for n more times.
func (s *server) rounds(name string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for target := s.count[name] + n; s.count[name] < target; {
		s.asked.Wait()
	}
}

// resolver asks the server. A lookup that is given up ends at once: the standard
// resolver would go on waiting for its answer, and look like a leak.
func (s *server) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, s.conn.LocalAddr().String())
		if err == nil {
			context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}}
}
