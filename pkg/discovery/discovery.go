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
// and those of the kinds that [WithKind] adds. The other options are for sources that
// have something to look up. The error names the specification and what it takes.
func Parse(spec string, options ...Option) (Source, error) {
	name, rest, _ := strings.Cut(spec, ":")
	switch name {
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
	set := newSettings(options)
	for _, kind := range set.kinds {
		if kind.name() == name {
			return kind.Parse(spec, set.report)
		}
	}
	addrs := strings.Split(spec, ",")
	for _, addr := range addrs {
		if _, err := netip.ParseAddrPort(addr); err != nil {
			return nil, fmt.Errorf("discovery %q: write %s or IP:PORT,... (a name needs dns: before it)",
				spec, strings.Join(set.forms(), ", "))
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
