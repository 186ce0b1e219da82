package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/sync/errgroup"
)

// Resolver is what the DNS sources need; *net.Resolver has it.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Defaults of the DNS sources.
const (
	// DefaultInterval is how often a name is resolved while all is well: the
	// time to live of the records that CoreDNS makes for Services is 5 s.
	DefaultInterval = 5 * time.Second
	// firstRetry is the wait after a lookup that failed or found nothing; it
	// grows by half each time, up to the interval.
	firstRetry = 200 * time.Millisecond
	// lookupTimeout bounds one lookup: two tries of resolv.conf's usual 5 s.
	lookupTimeout = 10 * time.Second
	// jitter spreads the lookups of many agents that started together.
	jitter = 0.2
)

// dns polls a lookup.
type dns struct {
	settings
	spec   string
	lookup func(ctx context.Context, r Resolver) ([]string, error)
}

func newDNS(spec string, options []Option, lookup func(context.Context, Resolver) ([]string, error)) (Source, error) {
	d := &dns{settings: newSettings(options), spec: spec, lookup: lookup}
	if d.interval <= 0 {
		return nil, fmt.Errorf("discovery %q: interval %v: give a positive duration, such as 5s", spec, d.interval)
	}
	return d, nil
}

// NewDNS returns a source of the addresses of host, IPv4 and IPv6, with port. An
// empty set is sent when the name does not exist: a headless Service without a
// ready pod looks like that.
func NewDNS(host, port string, options ...Option) (Source, error) {
	spec := "dns:" + net.JoinHostPort(host, port)
	if err := checkPort(port); err != nil {
		return nil, fmt.Errorf("discovery %q: %w; write dns:NAME:PORT", spec, err)
	}
	if host == "" {
		return nil, fmt.Errorf("discovery %q: no name; write dns:NAME:PORT", spec)
	}
	return newDNS(spec, options, func(ctx context.Context, r Resolver) ([]string, error) {
		return lookupHost(ctx, r, host, port)
	})
}

// NewSRV returns a source of the targets of the SRV records of name, such as
// _psock._tcp.future-rendezvous.default.svc.cluster.local, resolved to
// addresses. Priorities and weights are not followed: the set is what matters.
func NewSRV(name string, options ...Option) (Source, error) {
	spec := "srv:" + name
	labels := strings.SplitN(name, ".", 3)
	if len(labels) < 3 || !strings.HasPrefix(labels[0], "_") || !strings.HasPrefix(labels[1], "_") || labels[2] == "" {
		return nil, fmt.Errorf("discovery %q: write srv:_SERVICE._PROTO.NAME, such as srv:_psock._tcp.future-rendezvous", spec)
	}
	return newDNS(spec, options, func(ctx context.Context, r Resolver) ([]string, error) {
		return lookupService(ctx, r, name)
	})
}

func (d *dns) String() string { return d.spec }

func (d *dns) Run(ctx context.Context, updates chan<- []string) error {
	sets := make(chan []string)
	// Two goroutines, because a lookup may take seconds and a set that is known
	// must not wait for it.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.poll(gctx, sets) })
	g.Go(func() error { return Deliver(gctx, sets, updates) })
	_ = g.Wait() // either ends with the context only
	return ctx.Err()
}

// poll looks up until ctx ends.
func (d *dns) poll(ctx context.Context, sets chan<- []string) error {
	retry := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(min(firstRetry, d.interval)),
		backoff.WithMaxInterval(d.interval),
		backoff.WithRandomizationFactor(jitter),
		backoff.WithMaxElapsedTime(0), // never give up
	)
	for {
		set, err := d.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := spread(d.interval)
		switch {
		case err != nil:
			d.report(fmt.Errorf("discovery %s: %w", d.spec, err))
			wait = retry.NextBackOff()
		case len(set) == 0:
			wait = retry.NextBackOff() // whoever waits for the first wants it soon
		default:
			retry.Reset()
		}
		if err == nil {
			select {
			case sets <- set:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// once looks up; a name that does not exist is an empty set, not an error.
func (d *dns) once(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	set, err := d.lookup(ctx, d.resolver)
	if isNotFound(err) {
		return nil, nil
	}
	return set, err
}

func lookupHost(ctx context.Context, r Resolver, host, port string) ([]string, error) {
	ips, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	set := make([]string, 0, len(ips))
	for _, ip := range ips {
		set = append(set, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return set, nil
}

// lookupService fails as a whole when one target cannot be resolved: a set that
// lacks some would look like a change. A target that does not exist (its pod is
// gone, its record not yet) is left out.
func lookupService(ctx context.Context, r Resolver, name string) ([]string, error) {
	_, records, err := r.LookupSRV(ctx, "", "", name)
	if err != nil {
		return nil, err
	}
	var set []string
	for _, record := range records {
		if record.Target == "." {
			continue // RFC 2782: the service is decidedly not available
		}
		addrs, err := lookupHost(ctx, r, record.Target, strconv.Itoa(int(record.Port)))
		if err != nil && !isNotFound(err) {
			return nil, err
		}
		set = append(set, addrs...)
	}
	return set, nil
}

func isNotFound(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && dnsErr.IsNotFound
}

// spread returns d, give or take jitter.
func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + jitter*(2*rand.Float64()-1)))
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
