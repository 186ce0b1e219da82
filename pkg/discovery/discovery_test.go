package discovery_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/psock-runtime/psock-runtime/pkg/discovery"
	"github.com/psock-runtime/psock-runtime/pkg/discovery/discoverytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	name    = "rendezvous.test."
	service = "_psock._tcp.rendezvous.test."
	// short makes a test's lookups follow each other at once.
	short = 2 * time.Millisecond
)

func parse(t *testing.T, spec string, options ...discovery.Option) discovery.Source {
	t.Helper()
	s, err := discovery.Parse(spec, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStaticConforms(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Fixture {
		return discoverytest.Fixture{
			Source:  parse(t, "static:10.0.0.2:7462,10.0.0.1:7462,10.0.0.2:7462"),
			Initial: []string{"10.0.0.1:7462", "10.0.0.2:7462"},
		}
	})
}

func TestDNSConforms(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Fixture {
		s := serve(t)
		s.set(name, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"))
		return discoverytest.Fixture{
			Source:  parse(t, "dns:"+name+":7462", discovery.WithResolver(s.resolver()), discovery.WithInterval(short)),
			Initial: []string{"10.0.0.1:7462", "10.0.0.2:7462", "[2001:db8::1]:7462"},
			Port:    7462,
			Set:     func(hosts ...netip.Addr) { s.set(name, hosts...) },
			// The third question from now ends two whole lookups, one of which
			// began after now.
			Settle: func() { s.rounds(name, 3) },
		}
	})
}

func TestSRVConforms(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Fixture {
		s := serve(t)
		// A name for each host, as the pods of a headless Service have.
		set := func(hosts ...netip.Addr) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.records[service] = nil
			for _, h := range hosts {
				target := strings.ReplaceAll(h.String(), ".", "-") + ".rendezvous.test."
				s.hosts[target] = []netip.Addr{h}
				s.records[service] = append(s.records[service],
					dnsmessage.SRVResource{Port: 7462, Weight: 100, Target: dnsmessage.MustNewName(target)})
			}
		}
		set(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"))
		return discoverytest.Fixture{
			Source:  parse(t, "srv:"+service, discovery.WithResolver(s.resolver()), discovery.WithInterval(short)),
			Initial: []string{"10.0.0.1:7462", "10.0.0.2:7462"},
			Port:    7462,
			Set:     set,
			Settle:  func() { s.rounds(service, 3) },
		}
	})
}

// follow runs a source until the test ends.
func follow(t *testing.T, s discovery.Source) <-chan []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	updates, ended := make(chan []string), make(chan error, 1)
	go func() { ended <- s.Run(ctx, updates) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	return updates
}

func TestFailedLookupsKeepTheSet(t *testing.T) {
	s := serve(t)
	s.set(name, netip.MustParseAddr("10.0.0.1"))
	reports := make(chan error, 1)
	updates := follow(t, parse(t, "dns:"+name+":7462", discovery.WithResolver(s.resolver()), discovery.WithInterval(short),
		discovery.WithReport(func(err error) {
			select {
			case reports <- err:
			default:
			}
		})))
	if got := <-updates; !slices.Equal(got, []string{"10.0.0.1:7462"}) {
		t.Fatalf("got %q", got)
	}
	s.fail(true)
	if err := <-reports; !strings.Contains(err.Error(), "discovery dns:"+name+":7462") || !strings.Contains(err.Error(), "misbehaving") {
		t.Errorf("reported %v", err)
	}
	s.rounds(name, 5)
	select {
	case got := <-updates:
		t.Errorf("a failure changed the set to %q", got)
	default:
	}
	s.set(name, netip.MustParseAddr("10.0.0.2"))
	s.fail(false)
	if got := <-updates; !slices.Equal(got, []string{"10.0.0.2:7462"}) {
		t.Errorf("got %q after the recovery", got)
	}
}

// A name that appears is found long before the interval is over.
func TestNotFoundIsTriedAgainSoon(t *testing.T) {
	s := serve(t)
	began := time.Now()
	updates := follow(t, parse(t, "dns:"+name+":7462", discovery.WithResolver(s.resolver()), discovery.WithInterval(time.Hour)))
	if got := <-updates; got == nil || len(got) != 0 {
		t.Fatalf("got %#v, want an empty set", got)
	}
	s.set(name, netip.MustParseAddr("10.0.0.1"))
	<-updates
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("found after %v", took)
	}
}

// stub is a resolver that answers once and hangs from then on.
type stub struct {
	answered bool
	hanging  chan struct{}
}

func (s *stub) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	if !s.answered {
		s.answered = true
		return []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")}, nil
	}
	close(s.hanging)
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *stub) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.ErrUnsupported
}

func TestKnownSetDoesNotWaitForALookup(t *testing.T) {
	r := &stub{hanging: make(chan struct{})}
	updates := follow(t, parse(t, "dns:"+name+":7462", discovery.WithResolver(r), discovery.WithInterval(short)))
	<-r.hanging
	if got := <-updates; !slices.Equal(got, []string{"10.0.0.1:7462"}) {
		t.Errorf("got %q", got)
	}
}

// targets is a resolver of SRV records of which one target is gone, and one
// fails until it is mended.
type targets struct {
	failed, mended chan struct{}
}

func (r targets) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", []*net.SRV{{Target: ".", Port: 1}, {Target: "gone.", Port: 1}, {Target: "good.", Port: 1}, {Target: "bad.", Port: 2}}, nil
}

func (r targets) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	switch host {
	case "gone.":
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	case "bad.":
		select {
		case <-r.mended:
		default:
			select {
			case r.failed <- struct{}{}:
			default:
			}
			return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
		}
	}
	return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
}

func TestSRVSetIsCompleteOrNotSent(t *testing.T) {
	r := targets{failed: make(chan struct{}, 1), mended: make(chan struct{})}
	updates := follow(t, parse(t, "srv:"+service, discovery.WithResolver(r), discovery.WithInterval(short)))
	<-r.failed
	select {
	case got := <-updates:
		t.Errorf("got %q though a target failed", got)
	case <-r.failed: // once more, so nothing was sent for the first
	}
	close(r.mended)
	if got := <-updates; !slices.Equal(got, []string{"10.0.0.1:1", "10.0.0.1:2"}) {
		t.Errorf("got %q", got)
	}
}

func TestParse(t *testing.T) {
	for spec, want := range map[string]string{
		"static:10.0.0.1:7462":           "static:10.0.0.1:7462",
		"static:b:2,a:1,b:2":             "static:a:1,b:2",
		"10.0.0.1:7462":                  "static:10.0.0.1:7462",
		"[2001:db8::1]:7462":             "static:[2001:db8::1]:7462",
		"dns:future-rendezvous:7462":     "dns:future-rendezvous:7462",
		"srv:_psock._tcp.future.default": "srv:_psock._tcp.future.default",
	} {
		s, err := discovery.Parse(spec)
		if err != nil || s.String() != want {
			t.Errorf("Parse(%q) = %v, %v; want %s", spec, s, err, want)
			continue
		}
		if again, err := discovery.Parse(s.String()); err != nil || again.String() != want {
			t.Errorf("Parse(%q) = %v, %v", s, again, err)
		}
	}
	for spec, want := range map[string]string{
		"":                        "dns:NAME:PORT",
		"future-rendezvous:7462":  "needs dns: before it",
		"static:":                 "static:HOST:PORT",
		"static:10.0.0.1":         "10.0.0.1",
		"static::7462":            "no host",
		"static:10.0.0.1:0":       "1 to 65535",
		"static:10.0.0.1:7462,":   "static:HOST:PORT",
		"dns:future-rendezvous":   "dns:NAME:PORT",
		"dns::7462":               "no name",
		"dns:future:https":        "1 to 65535",
		"dns:future:65536":        "1 to 65535",
		"srv:future-rendezvous":   "srv:_SERVICE._PROTO.NAME",
		"srv:_psock._tcp.":        "srv:_SERVICE._PROTO.NAME",
		"srv:psock._tcp.future":   "srv:_SERVICE._PROTO.NAME",
		"kubernetes:future:psock": "dns:NAME:PORT",
	} {
		if s, err := discovery.Parse(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, %v; want an error with %q", spec, s, err, want)
		}
	}
	if _, err := discovery.NewStatic(); err == nil {
		t.Error("NewStatic() without an address succeeds")
	}
	if _, err := discovery.NewDNS("a", "1", discovery.WithInterval(0)); err == nil || !strings.Contains(err.Error(), "positive") {
		t.Errorf("an interval of 0: %v", err)
	}
}

func TestParseWithKinds(t *testing.T) {
	refused, failed := errors.New("refused"), errors.New("failed")
	word := func(name string, err error) discovery.Option {
		return discovery.WithKind(discovery.Kind{Form: name + ":WORD", Parse: func(spec string, report func(error)) (discovery.Source, error) {
			report(failed)
			if err != nil {
				return nil, err
			}
			return discovery.NewStatic(strings.TrimPrefix(spec, name+":") + ":7462")
		}})
	}
	var reported error
	options := []discovery.Option{word("one", nil), word("two", refused), discovery.WithReport(func(err error) { reported = err })}
	s, err := discovery.Parse("one:host", options...)
	if err != nil || s.String() != "static:host:7462" || reported != failed {
		t.Errorf("one:host: %v, %v, reported %v", s, err, reported)
	}
	if _, err := discovery.Parse("two:host", options...); err != refused {
		t.Errorf("two:host: %v, want the kind's own error", err)
	}
	if _, err := discovery.Parse("one:host", word("one", nil)); err != nil {
		t.Errorf("without a report: %v", err)
	}
	for _, spec := range []string{"three:host", "one"} {
		if _, err := discovery.Parse(spec, options[1:]...); err == nil || !strings.Contains(err.Error(), "static:HOST:PORT,..., two:WORD or IP:PORT") {
			t.Errorf("%s: %v, want an error with the form of the added kind", spec, err)
		}
	}
}
