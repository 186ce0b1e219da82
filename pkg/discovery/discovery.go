// Package discovery finds the addresses at which worker agents reach the
// rendezvous, and follows them as they change.
//
// A Source is named by a specification: a fixed list ("static:10.0.0.7:7462"),
// a DNS name that is resolved again and again ("dns:future-rendezvous:7462") or
// a DNS service record ("srv:_psock._tcp.future-rendezvous"). Every source keeps
// the same contract, which package discoverytest checks; others, such as one
// that watches Kubernetes, live in packages of their own and use Deliver.
package discovery

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Source finds the addresses of the rendezvous.
type Source interface {
	// Run sends the current set of addresses, complete, sorted and without
	// repetition, each time that it changes: the first as soon as it is known,
	// an empty one when it is known that there are none. Each address is
	// HOST:PORT, ready to be dialled. A receiver that is slow misses the sets
	// in between and gets the latest. What fails is tried again without end.
	//
	// Run returns ctx's error when that ends, or a configuration error that no
	// waiting mends. It never closes updates, and keeps nothing running once it
	// has returned. A Source is run once at a time.
	Run(ctx context.Context, updates chan<- []string) error
	// String returns the specification that Parse makes the source from.
	String() string
}

// Parse returns the source that a specification names:
//
//	static:HOST:PORT,HOST:PORT   these addresses
//	IP:PORT,IP:PORT              the same, for IP addresses
//	dns:NAME:PORT                the A and AAAA records of NAME
//	srv:_SERVICE._PROTO.NAME     the targets and ports of the SRV records
//
// The options are for the two DNS sources. The error names the specification and
// what it takes.
func Parse(spec string, options ...Option) (Source, error) {
	kind, rest, _ := strings.Cut(spec, ":")
	switch kind {
	case "static":
		return NewStatic(strings.Split(rest, ",")...)
	case "dns":
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			return nil, fmt.Errorf("discovery %q: %w; write dns:NAME:PORT", spec, err)
		}
		return NewDNS(host, port, options...)
	case "srv":
		return NewSRV(rest, options...)
	}
	addrs := strings.Split(spec, ",")
	for _, addr := range addrs {
		if _, err := netip.ParseAddrPort(addr); err != nil {
			return nil, fmt.Errorf("discovery %q: write dns:NAME:PORT, srv:_SERVICE._PROTO.NAME, "+
				"static:HOST:PORT,... or IP:PORT,... (a name needs dns: before it)", spec)
		}
	}
	return NewStatic(addrs...)
}

func checkPort(port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q: give a number from 1 to 65535", port)
	}
	return nil
}

// static is a set of addresses that never changes.
type static []string

// NewStatic returns a source of exactly these addresses, each HOST:PORT. Host
// names in them are resolved by whoever dials.
func NewStatic(addrs ...string) (Source, error) {
	for _, addr := range addrs {
		host, port, err := net.SplitHostPort(addr)
		if err == nil {
			err = checkPort(port)
		}
		if err == nil && host == "" {
			err = fmt.Errorf("no host before the port")
		}
		if err != nil {
			return nil, fmt.Errorf("static address %q: %w; write static:HOST:PORT,HOST:PORT", addr, err)
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("no static address; write static:HOST:PORT,HOST:PORT")
	}
	return static(normal(addrs)), nil
}

func (s static) String() string { return "static:" + strings.Join(s, ",") }

func (s static) Run(ctx context.Context, updates chan<- []string) error {
	sets := make(chan []string, 1)
	sets <- s
	return Deliver(ctx, sets, updates)
}

// Deliver passes sets of addresses on to updates as a Source has to: sorted,
// without repetitions, only when they differ from what was last received, the
// latest one when the receiver is slow. It always takes from sets at once, so
// whoever looks up addresses never waits for the receiver. It returns ctx's
// error when that ends, and closes neither channel.
func Deliver(ctx context.Context, sets <-chan []string, updates chan<- []string) error {
	var (
		received      []string // the set that the receiver got last
		any           bool     // whether there was one
		pending, kept []string
		out           chan<- []string // updates while pending waits, else nil
	)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case set := <-sets:
			// The receiver may change the slice that it gets, at once.
			pending, kept = normal(set), normal(set)
			out = updates
			if any && slices.Equal(pending, received) {
				out = nil // changed back before the receiver looked
			}
		case out <- pending:
			received, any, out = kept, true, nil
		}
	}
}

// normal returns a sorted copy without repetitions, not nil.
func normal(set []string) []string {
	out := append([]string{}, set...)
	slices.Sort(out)
	return slices.Compact(out)
}
