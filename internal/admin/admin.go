// Package admin serves what operators' machines ask of a program: probes and
// metrics, over plain HTTP.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves /livez, which answers as long as the program does, /readyz, which
// answers 503 and ready's reason when ready returns an error, and /metrics.
func Handler(ready func() error, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: mostScrapes,
	}))
	return mux
}

const (
	// mostConnections bounds the open connections of one server. Probes, scrapes and R sessions
	// need a few each.
	mostConnections = 512
	// mostScrapes bounds the scrapes that run at a time: each holds all series in memory.
	mostScrapes = 4
)

// NewClosed makes the counter of idle connections that servers have closed because too many
// were open, by server: for [Serve]. program is the first word of its name.
func NewClosed(program string, register prometheus.Registerer) *prometheus.CounterVec {
	return promauto.With(register).NewCounterVec(prometheus.CounterOpts{
		Name: program + "_closed_idle_connections_total",
		Help: fmt.Sprintf("HTTP connections that were closed while idle, because more than %d were open on that server.", mostConnections),
	}, []string{"server"})
}

// Serve serves handler on listener until ctx ends. Requests and connections are
// bounded in time, size and number; closed counts the idle connections that are one too many.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, closed prometheus.Counter) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnState:         newBound(mostConnections, closed).note,
		// Requests that last end with ctx.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() {
		// The rest of a scrape is worth a second, no more.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

// Loopback reports whether address (host:port) can be reached from this network
// namespace alone.
func Loopback(address string) (bool, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("address %q: want HOST:PORT, or :PORT for all addresses: %w", address, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("address %q: port %q, want HOST:PORT with a PORT from 0 (any free one) to 65535", address, port)
	}
	return LoopbackHost(host), nil
}

// LoopbackHost reports whether host, a name or an IP address without a port, can be reached
// from this network namespace alone.
func LoopbackHost(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
