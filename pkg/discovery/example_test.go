package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/psock-runtime/psock-runtime/pkg/discovery"
)

func ExampleParse() {
	for _, spec := range []string{
		"10.0.0.2:7462,10.0.0.1:7462",
		"dns:future-rendezvous:7462",
		"srv:_psock._tcp.future-rendezvous",
		"future-rendezvous:7462",
	} {
		source, err := discovery.Parse(spec)
		if err != nil {
			fmt.Println("error:", err)
			continue
		}
		fmt.Println(source)
	}
	// Output:
	// static:10.0.0.1:7462,10.0.0.2:7462
	// dns:future-rendezvous:7462
	// srv:_psock._tcp.future-rendezvous
	// error: discovery "future-rendezvous:7462": write dns:NAME:PORT, srv:_SERVICE._PROTO.NAME, static:HOST:PORT,... or IP:PORT,... (a name needs dns: before it)
}

// moving is a resolver whose every name has one address, until that moves.
type moving struct{ moved atomic.Bool }

func (m *moving) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	if m.moved.Load() {
		return []netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil
	}
	return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
}

func (m *moving) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.ErrUnsupported
}

// Following a source while a service moves.
func ExampleSource() {
	service := &moving{}
	// Without these options: the system's resolver, every five seconds.
	source, err := discovery.Parse("dns:future-rendezvous:7462",
		discovery.WithResolver(service), discovery.WithInterval(time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	updates, ended := make(chan []string), make(chan error, 1)
	go func() { ended <- source.Run(ctx, updates) }()
	for range 2 {
		select {
		case addresses := <-updates:
			fmt.Println("dial", addresses)
			service.moved.Store(true)
		case err := <-ended:
			log.Fatal(err) // a configuration that no waiting mends
		}
	}
	cancel()
	fmt.Println(<-ended)
	// Output:
	// dial [10.0.0.1:7462]
	// dial [10.0.0.2:7462]
	// context canceled
}

// fileSource reads the addresses from a file, one in each line, once a second.
type fileSource string

func (f fileSource) String() string { return "file:" + string(f) }

func (f fileSource) Run(ctx context.Context, updates chan<- []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sets, ended := make(chan []string), make(chan error, 1)
	// Deliver sorts, leaves out repetitions, and waits for a slow receiver.
	go func() { ended <- discovery.Deliver(ctx, sets, updates) }()
	for {
		if data, err := os.ReadFile(string(f)); err == nil {
			select {
			case sets <- strings.Fields(string(data)):
			case <-ctx.Done():
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return <-ended
		}
	}
}

// A kind of source of one's own.
func ExampleWithKind() {
	file := discovery.WithKind(discovery.Kind{
		Form: "file:PATH",
		Parse: func(spec string, _ func(error)) (discovery.Source, error) {
			return fileSource(strings.TrimPrefix(spec, "file:")), nil
		},
	})

	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "addresses")
	if err := os.WriteFile(path, []byte("10.0.0.2:7462\n10.0.0.1:7462\n"), 0o600); err != nil {
		log.Fatal(err)
	}

	source, err := discovery.Parse("file:"+path, file)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	updates, ended := make(chan []string), make(chan error, 1)
	go func() { ended <- source.Run(ctx, updates) }()
	fmt.Println(<-updates)
	cancel()
	<-ended
	// Output:
	// [10.0.0.1:7462 10.0.0.2:7462]
}
