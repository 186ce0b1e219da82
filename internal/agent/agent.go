// Package agent is the worker agent: it keeps one warm R worker in each of its
// slots, parks them at the rendezvous, and gives each session a fresh one.
package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/psock-runtime/psock-runtime/internal/leftover"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/scratch"
	"github.com/psock-runtime/psock-runtime/pkg/discovery"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Config is what an Agent needs.
type Config struct {
	Log     *zap.Logger
	Metrics *Metrics
	// Name tells this agent's workers from others' in tables and R errors.
	Name     string
	Instance string // random, of this start
	Group    string
	Build    string
	Node     string // the machine it runs on, "" if that has no name
	Slots    int
	// Command is the worker's command line; the agent fills in Master and Port.
	Command psock.Command
	// Env is the worker's environment.
	Env []string
	Dir string
	// OOMKills is psock.Spec's.
	OOMKills func() (int64, error)
	// PeerUID is the owner of the process at the other end of a loopback
	// connection, given its addresses, as sockdiag.Prober tells; nil trusts every
	// local process.
	PeerUID func(local, remote net.Addr) (uint32, error)
	// Install, if not nil, is run before the first worker starts.
	Install func(ctx context.Context) error
	// TempDir is where each worker gets a folder of its own, for its temporary files and
	// the R packages that its session installs; "" is os.TempDir(). The folder is deleted
	// with the worker.
	TempDir string
	// Scratch are folders, as scratch.Resolve returns them, that are brought back to what
	// they held when the agent started, whenever no session uses a worker of it and none
	// starts.
	Scratch []string
	// Container says that the agent has the container to itself, see pid1.Owned: every
	// process without a parent that no living worker can have started is ended.
	Container bool

	Source discovery.Source
	// TLS is the client's configuration; nil is plain TCP.
	TLS    *tls.Config
	Timing link.Timing

	// StartLimit is how long R may take to start and connect.
	StartLimit time.Duration
	// StopGrace is how long R may take to end by itself, or by the interrupt that it
	// gets when its session is over, and then after SIGTERM.
	StopGrace time.Duration
	// DrainBudget is how long busy workers may finish their call when Run's
	// context ends.
	DrainBudget time.Duration
}

// Agent supervises the slots.
type Agent struct {
	config Config
	slots  []*slot
	memory memory

	folders   *scratch.Folders
	scratch   *scratch.Restored
	processes *leftover.Tracker

	mu        sync.Mutex
	addresses []string
	changed   chan struct{} // closed and replaced when addresses change

	versionFound chan struct{} // closed when version is final
	version      string        // R's, "" if it is not known
}

// New makes an Agent. It fails where the system does not show what is needed to keep
// sessions apart.
func New(config Config) (*Agent, error) {
	a := &Agent{config: config, changed: make(chan struct{}), versionFound: make(chan struct{})}
	a.memory.age = config.Timing.Heartbeat / 2
	if a.memory.age == 0 {
		a.memory.age = link.HeartbeatInterval / 2
	}
	for i := range config.Slots {
		a.slots = append(a.slots, newSlot(a, i))
	}
	if err := a.keepApart(); err != nil {
		return nil, err
	}
	config.Metrics.attach(a)
	return a, nil
}

// Run supervises until ctx ends, and then drains: idle workers leave at once, busy
// ones when their call is done or the budget is spent. It returns nil after a
// drain, else what made it impossible to go on.
func (a *Agent) Run(ctx context.Context) error {
	// Connections outlive ctx by the time of the drain.
	hard, stopHard := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHard()
	var slots sync.WaitGroup
	for _, s := range a.slots {
		slots.Go(func() { s.keepConnected(hard) })
	}
	defer slots.Wait()
	defer stopHard()
	defer a.folders.Close(removeLimit)
	defer a.restoreLast()

	group, running := errgroup.WithContext(ctx)
	updates := make(chan []string)
	group.Go(func() error { return a.config.Source.Run(running, updates) })
	group.Go(func() error { return a.follow(running, updates) })
	group.Go(func() error { return a.findVersion(running) })
	group.Go(func() error { return a.supervise(running, hard) })
	err := group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// supervise installs what is to be installed and runs the slots' workers.
func (a *Agent) supervise(ctx, hard context.Context) error {
	a.folders.RemoveLeft(func(dir string) error { return a.processes.EndOf(dir + "/") })
	if err := a.retry(ctx, "restoring the scratch folders failed", a.scratch.Recover); err != nil {
		return err
	}
	if err := a.install(ctx); err != nil {
		return err
	}
	if err := a.retry(ctx, "keeping what the scratch folders hold failed", a.scratch.Keep); err != nil {
		return err
	}
	budget, cancel := context.WithCancel(hard)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		a.config.Log.Info("draining", zap.Duration("budget", a.config.DrainBudget))
		time.AfterFunc(a.config.DrainBudget, cancel)
	})
	defer stop()
	var group sync.WaitGroup
	for _, s := range a.slots {
		group.Go(func() { s.keepRunning(ctx, budget) })
	}
	group.Wait()
	return ctx.Err()
}

// install runs the configured installation until it succeeds.
func (a *Agent) install(ctx context.Context) error {
	if a.config.Install == nil {
		return nil
	}
	a.announce(ctx, link.StateMessage{State: link.Installing})
	return a.retry(ctx, "installing R packages failed", func() error { return a.config.Install(ctx) })
}

// retry does something until it succeeds. A failure is announced as each slot's reason,
// so that the R error of a session that waits for these workers can name it.
func (a *Agent) retry(ctx context.Context, failed string, do func() error) error {
	pause := newBackoff(time.Second, time.Minute)
	for {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := pause.NextBackOff()
		a.config.Log.Error(failed, zap.Error(err), zap.Duration("retryIn", wait))
		a.announce(ctx, link.StateMessage{State: link.Failed, Reason: err.Error()})
		if !sleep(ctx, wait, nil) {
			return ctx.Err()
		}
	}
}

func (a *Agent) announce(ctx context.Context, message link.StateMessage) {
	for _, s := range a.slots {
		s.announce(ctx, message)
	}
}

// follow takes the addresses that the source finds.
func (a *Agent) follow(ctx context.Context, updates <-chan []string) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case addresses := <-updates:
			if len(addresses) == 0 {
				a.config.Log.Warn("no rendezvous found", zap.Stringer("source", a.config.Source))
			} else {
				a.config.Log.Info("rendezvous found", zap.Stringer("source", a.config.Source), zap.Strings("addresses", addresses))
			}
			a.mu.Lock()
			a.addresses = addresses
			close(a.changed)
			a.changed = make(chan struct{})
			a.mu.Unlock()
		}
	}
}

// rendezvous is where to dial for the given attempt, "" when nothing is known, and
// a channel that is closed when that changes.
func (a *Agent) rendezvous(attempt int) (address string, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.addresses) > 0 {
		address = a.addresses[attempt%len(a.addresses)]
	}
	return address, a.changed
}

// Ready says why the agent is not ready: nil when every slot is parked or at work.
func (a *Agent) Ready() error {
	for _, s := range a.slots {
		if err := s.ready(); err != nil {
			return fmt.Errorf("slot %d: %w", s.index, err)
		}
	}
	return nil
}

// newBackoff is endless: its MaxElapsedTime, 15 minutes by default, would give up
// on a rendezvous that is away for longer.
func newBackoff(first, most time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first),
		backoff.WithMaxInterval(most),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.3),
		backoff.WithMaxElapsedTime(0),
	)
}

// sleep waits for d or until early is closed; false when ctx has ended.
func sleep(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-early:
	}
	return true
}
