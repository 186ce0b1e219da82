package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The ports on which R sessions listen.
const (
	firstPort = 11000
	ports     = 1000
)

// call is what parallelly's first call is like: R 4.2.2's serialize() of
// list(type = "EXEC", data = list(fun = function() NULL, ...), tag = NULL).
//
//go:embed testdata/call.bin
var call []byte

// patience is the demand timeout, after which a session gets an R error.
const patience = time.Minute

// bindAll has sessions ask for workers, each for one node after the other, and returns
// how long the nodes took, from the shortest to the longest.
func bindAll(ctx context.Context, o options) ([]time.Duration, error) {
	var mu sync.Mutex
	var took []time.Duration
	left := o.binds
	next := func() bool {
		mu.Lock()
		defer mu.Unlock()
		left--
		return left >= 0
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range o.sessions {
		group.Go(func() error {
			// Each has ports of its own, and takes them in turn.
			for port := i; next(); port = (port + o.sessions) % ports {
				d, err := node(ctx, firstPort+port)
				if err != nil {
					return err
				}
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
			return nil
		})
	}
	err := group.Wait()
	slices.Sort(took)
	return took, err
}

// node is a cluster of one node: it listens, is connected to, closes the listener,
// makes a call, reads the answer and hangs up.
func node(ctx context.Context, port int) (time.Duration, error) {
	began := time.Now()
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return 0, err
	}
	if err := listener.(*net.TCPListener).SetDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	conn, err := listener.Accept()
	listener.Close()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(call); err != nil {
		return 0, err
	}
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(conn, got); err != nil {
		return 0, fmt.Errorf("a node on port %d: %w", port, err)
	}
	if !bytes.Equal(got, answer) {
		return 0, fmt.Errorf("a node on port %d got %q", port, got)
	}
	return time.Since(began), nil
}
