package admin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// Connections that do nothing are bounded, and nobody waits behind them.
func TestIdleConnectionsAreBounded(t *testing.T) {
	listener := testkit.Listen(t)
	ctx, stop := context.WithCancel(t.Context())
	registry := prometheus.NewRegistry()
	count := NewClosed("program", registry).WithLabelValues("admin")
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, listener, Handler(func() error { return nil }, registry), count)
	}()
	address := listener.Addr().String()
	client := &http.Client{Timeout: 20 * time.Second}
	ask := func() error {
		response, err := client.Get(fmt.Sprintf("http://%s/livez", address))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", response.Status)
		}
		return nil
	}
	if err := ask(); err != nil { // and keeps its connection
		t.Fatal(err)
	}
	var idle []net.Conn
	defer func() {
		for _, conn := range idle {
			conn.Close()
		}
	}()
	for range 4 * mostConnections {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	if err := ask(); err != nil {
		t.Errorf("behind idle connections: %v", err)
	}
	closed := make(chan struct{}, len(idle))
	for _, conn := range idle {
		go func() {
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				closed <- struct{}{}
			}
		}()
	}
	for range len(idle) - mostConnections {
		<-closed
	}
	if n := testutil.ToFloat64(count); n < float64(len(idle)-mostConnections) {
		t.Errorf("%g connections were counted, want the %d that were closed", n, len(idle)-mostConnections)
	}
	client.CloseIdleConnections()
	stop()
	<-served
}
