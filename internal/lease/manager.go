package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Config is what a Manager needs. None of its functions is called with the book's
// lock held.
type Config struct {
	Log     *zap.Logger
	Metrics *Metrics
	Workers Reserver
	Limits  Limits
	// First and Last are the ports that are handed out.
	First, Last uint16
	// Occupied are the ports of them that are listened on or have a cluster.
	Occupied func() (map[uint16]bool, error)
	// DemandTimeout is how long a lease waits for a worker while none is on its way.
	DemandTimeout time.Duration
}

// Manager is the book of leases. Run owns the goroutines that wait for workers.
type Manager struct {
	config Config
	opened chan *lease   // to Run
	done   chan struct{} // closed when Run ends

	mu     sync.Mutex
	leases map[string]*lease // by ID
	ports  map[uint16]*lease // of those that are live
	past   []*lease          // that are over and not forgotten, oldest first
	rested map[uint16]time.Time
	next   int // the port to be tried first, from Config.First
}

// New makes an empty book.
func New(config Config) *Manager {
	m := &Manager{
		config: config, opened: make(chan *lease), done: make(chan struct{}),
		leases: make(map[string]*lease), ports: make(map[uint16]*lease), rested: make(map[uint16]time.Time),
	}
	m.next = mathrand.IntN(m.portCount())
	config.Metrics.attach(m)
	return m
}

// Run reserves workers for leases and ends those whose time is over, until ctx ends;
// it returns when nothing is held any more.
func (m *Manager) Run(ctx context.Context) error {
	var gathering sync.WaitGroup
	defer gathering.Wait()
	defer m.shut()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case l := <-m.opened:
			gathering.Go(func() { m.gather(l) })
		case <-tick.C:
			m.lookAfter()
		}
	}
}

// shut ends every lease.
func (m *Manager) shut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.done)
	for _, l := range m.ports {
		m.end(l, Ended, ErrEnding.Error())
	}
}

// Open makes a lease for the user uid. Its error is a Refusal, or why it cannot tell.
func (m *Manager) Open(uid uint32, r Request) (Snapshot, error) {
	if err := m.config.Limits.Check(uid, r.Group, r.Workers, r.Share); err != nil {
		return Snapshot{}, m.refused(err)
	}
	if r.Workers == 0 { // what there is can be had: after the check
		r.Workers = min(max(1, m.config.Limits.Usual(uid, r.Group, r.Returned)), MaxWorkers)
	}
	occupied, err := m.config.Occupied()
	if err != nil {
		return Snapshot{}, fmt.Errorf("cannot tell which ports are free: %w", err)
	}
	id, now := strings.ToLower(rand.Text()), time.Now()
	l := &lease{
		Terms: Terms{
			ID: id, UID: uid, Group: r.Group, Workers: r.Workers, Share: r.Share,
			Tenant: m.config.Workers.NewTenant("lease " + id),
		},
		label: r.Label, since: now, changed: make(chan struct{}),
		state: Waiting, renewed: now, hope: now,
	}
	l.gathering, l.leaveOff = context.WithCancel(context.Background())
	snapshot, err := m.enter(l, occupied)
	if err != nil {
		return Snapshot{}, m.refused(err)
	}
	select {
	case m.opened <- l:
	case <-m.done:
		return Snapshot{}, ErrEnding
	}
	m.config.Log.Debug("lease", zap.String("lease", l.ID), zap.Uint16("port", snapshot.Port), zap.Uint32("uid", uid),
		zap.String("group", l.Group), zap.Int("workers", l.Workers), zap.Bool("share", l.Share))
	return snapshot, nil
}

// enter puts l into the book, if there is room.
func (m *Manager) enter(l *lease, occupied map[uint16]bool) (Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ports) >= MaxLeases {
		return Snapshot{}, &Refusal{ErrBusy, Crowded, fmt.Sprintf("there are %d leases, which is as many as there may be: give back some, or wait for them to end", MaxLeases)}
	}
	if !m.assignPort(l, occupied) {
		return Snapshot{}, &Refusal{ErrBusy, NoPort, fmt.Sprintf("no port of %d-%d is free: end clusters, try again in a moment, or give the rendezvous more --ports", m.config.First, m.config.Last)}
	}
	l.tell()
	m.leases[l.ID] = l
	return l.snapshot(), nil
}

// refused counts a refusal.
func (m *Manager) refused(err error) error {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		m.config.Metrics.refuse(refusal.Reason)
	}
	return err
}

// find returns the lease that id names, if it is uid's. Called with the lock held.
func (m *Manager) find(uid uint32, id string) (*lease, error) {
	l := m.leases[id]
	switch {
	case l == nil:
		return nil, ErrUnknown
	case l.UID != uid:
		return nil, ErrOwner
	}
	return l, nil
}

// Wait renews the lease and returns it. While it waits for workers that takes until
// there is news or the limit is over: news are a version other than the given one, or
// than the present one, if that is negative.
func (m *Manager) Wait(ctx context.Context, uid uint32, id string, version int, limit time.Duration) (Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.find(uid, id)
	if err != nil {
		return Snapshot{}, err
	}
	l.renewed = time.Now()
	if version < 0 {
		version = l.version
	}
	if limit <= 0 || l.state != Waiting || l.version != version {
		return l.snapshot(), nil
	}
	l.askers++
	changed := l.changed
	m.mu.Unlock()
	timer := time.NewTimer(min(limit, MaxWait))
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	case <-m.done:
	}
	timer.Stop()
	m.mu.Lock()
	l.askers--
	if ctx.Err() != nil {
		return Snapshot{}, ctx.Err() // the session may be no more: that does not renew it
	}
	l.renewed = time.Now()
	return l.snapshot(), nil
}

// Close gives a lease back. It does nothing for one that is not there.
func (m *Manager) Close(uid uint32, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.find(uid, id)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.live() {
		m.end(l, Ended, "it was given back")
	}
	m.forget(l)
	return nil
}

// List describes every lease, oldest first.
func (m *Manager) List() []Snapshot {
	m.mu.Lock()
	all := make([]Snapshot, 0, len(m.leases))
	for _, l := range m.leases {
		all = append(all, l.snapshot())
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b Snapshot) int {
		if order := a.Since.Compare(b.Since); order != 0 {
			return order
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// end makes l one that is over. What it holds is released by its goroutines. Called
// with the lock held, for a live lease.
func (m *Manager) end(l *lease, state State, message string) {
	l.state, l.message, l.settled = state, message, time.Now()
	l.tell()
	l.leaveOff()
	delete(m.ports, l.Port)
	m.rested[l.Port] = l.settled
	m.past = append(m.past, l)
	if len(m.past) > mostPast {
		m.forget(m.past[0])
	}
	m.config.Log.Debug("lease is over", zap.String("lease", l.ID), zap.Uint16("port", l.Port),
		zap.String("state", string(state)), zap.String("reason", message))
}

// forget drops a lease that is over. Called with the lock held.
func (m *Manager) forget(l *lease) {
	delete(m.leases, l.ID)
	m.past = slices.DeleteFunc(m.past, func(other *lease) bool { return other == l })
}

func (m *Manager) portCount() int { return int(m.config.Last) - int(m.config.First) + 1 }

// assignPort gives l a port that is not in use: the one that was free for longest.
// Called with the lock held.
func (m *Manager) assignPort(l *lease, occupied map[uint16]bool) bool {
	for range m.portCount() {
		port := m.config.First + uint16(m.next)
		m.next = (m.next + 1) % m.portCount()
		if !occupied[port] && m.ports[port] == nil && time.Since(m.rested[port]) >= portRest {
			delete(m.ports, l.Port)
			l.Port = port
			m.ports[port] = l
			return true
		}
	}
	return false
}
