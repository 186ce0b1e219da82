// Package agents is what tests need that play agents, or have their connections. It is apart
// from package testkit, which the tests within internal/link import.
package agents

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// Serve listens at address and gives each agent's connection to serve, in a goroutine of its
// own. stop, or else the end of the test, ends the context and waits for them all.
func Serve(t testing.TB, address string, serve func(context.Context, *link.Conn)) (listener net.Listener, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	wait := testkit.Accept(listener, func(raw net.Conn) {
		if conn, err := link.Accept(ctx, raw, nil, link.Timing{}); err == nil {
			serve(ctx, conn)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wait() })
	t.Cleanup(stop)
	return listener, stop
}

// Dial is an agent's end of a connection, which is closed when the test ends. It has not said
// hello. config is nil without TLS.
func Dial(t testing.TB, address net.Addr, config *tls.Config) *link.Conn {
	t.Helper()
	conn, err := link.Dial(context.Background(), address.String(), config, link.Timing{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
