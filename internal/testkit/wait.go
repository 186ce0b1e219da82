package testkit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait for something that must happen, and nothing is expected to come
// near it: machines that run tests are slow at times.
const Patience = 30 * time.Second

// Eventually waits, for Patience at most, until condition holds: for what shows only when
// asked for. If it does not hold in time, the test fails with what and with what more says.
func Eventually(t testing.TB, what string, condition func() bool, more ...func() string) {
	t.Helper()
	EventuallyWithin(t, Patience, time.Millisecond, what, condition, more...)
}

// EventuallyWithin is Eventually with another limit and another interval between two looks.
func EventuallyWithin(t testing.TB, limit, interval time.Duration, what string, condition func() bool, more ...func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	look := time.NewTicker(interval)
	defer look.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			for _, say := range more {
				what += ": " + say()
			}
			t.Fatalf("waited %s in vain for %s", limit, what)
		}
		<-look.C
	}
}

// Receive receives from c. If nothing comes within Patience, the test fails with what.
func Receive[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(Patience):
		t.Fatalf("waited %s in vain for %s", Patience, what)
	}
	return v
}

// Background calls run in a goroutine and ends its context with stop, or else with the test.
// stop waits for run, which must return the context's error.
func Background(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		t.Helper()
		cancel()
		if err := Receive(t, ended, "the end of what runs in the background"); !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v, want the context's error", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
