// Package scaler gives each group of workers as many pods as sessions want: it sets
// the number of replicas of the group's Deployment, up at once and down when fewer have
// been wanted for a while, and then by pods that nobody uses alone.
package scaler

import (
	"cmp"
	"context"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

const (
	// pace is how often a group is looked at. What changes meanwhile and matters at once
	// is announced by Poke.
	pace = time.Second
	// gather is waited after a Poke: what it announces comes in numbers, such as the nodes
	// of a cluster.
	gather = 50 * time.Millisecond
)

// Pool is what a Scaler needs of the workers that are connected. An agent's name is its
// pod's name. *pool.Pool is one.
type Pool interface {
	// Agents names those of a group, in use or not.
	Agents(group string) []string
	// Idle names those that no session uses, least useful first.
	Idle(group string) []string
	// Cordon takes an agent out of the pool, unless it is in use.
	Cordon(agent string) bool
	Uncordon(agent string)
}

// Pods is what a Scaler needs of the worker pods. *pods.Watcher is one.
type Pods interface {
	Group(name string) []pods.Status
}

// Config is what a Scaler needs.
type Config struct {
	Log     *zap.Logger
	Metrics *Metrics
	Groups  []Group
	Cluster Cluster
	Pods    Pods
	Pool    Pool
	// Wanted is how many workers sessions want, those that they have included, by group.
	// What is wanted of any group, "", counts for the default one.
	Wanted func() map[string]int
}

// Scaler scales groups of workers. Its methods may be called concurrently.
type Scaler struct {
	groups []*group
	byName map[string]*group
}

// New makes a Scaler; Run starts it.
func New(config Config) *Scaler {
	s := &Scaler{byName: make(map[string]*group)}
	for _, g := range config.Groups {
		one := newGroup(config, g)
		s.groups = append(s.groups, one)
		s.byName[g.Name] = one
	}
	return s
}

// Run scales until ctx ends. Each group has a goroutine of its own: one whose requests
// are not answered does not hold up another. A nil Scaler has nothing to do until then.
func (s *Scaler) Run(ctx context.Context) error {
	if s == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	running, ctx := errgroup.WithContext(ctx)
	for _, g := range s.groups {
		running.Go(func() error { return g.run(ctx) })
	}
	return running.Wait()
}

// Step does what Run does every second, once for each group, as if it were now: for
// simulations, which have a time of their own. Not while Run runs.
func (s *Scaler) Step(ctx context.Context, now time.Time) {
	for _, g := range s.groups {
		g.step(ctx, now)
	}
}

// Poke says that more may be wanted than a moment ago.
func (s *Scaler) Poke() {
	for _, g := range s.groups {
		select {
		case g.poked <- struct{}{}:
		default:
		}
	}
}

// group is the group that demand for name is for, "" being any; nil if it is not scaled.
func (s *Scaler) group(name string) *group { return s.byName[cmp.Or(name, pool.DefaultGroup)] }

// Max is how many workers a group may have, 0 if it is not scaled.
func (s *Scaler) Max(group string) int {
	g := s.group(group)
	if g == nil {
		return 0
	}
	return g.config.Max * g.config.Slots
}

// Starting reports whether demand for a group's workers has reason to wait: pods are on
// their way. The text says how far they are, or why there are none.
func (s *Scaler) Starting(group string) (bool, string) {
	g := s.group(group)
	if g == nil {
		return false, ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.starting, explain(g.seen, g.missing)
}

// Explain says in one line how far a group is from what is wanted of it, and why, ""
// for one that is not scaled: "2 of 6 pods run; future-worker-x: Unschedulable: ...".
func (s *Scaler) Explain(group string) string {
	_, text := s.Starting(group)
	return text
}

// Groups names the groups that are scaled.
func (s *Scaler) Groups() []string {
	names := make([]string, len(s.groups))
	for i, g := range s.groups {
		names[i] = g.config.Name
	}
	return names
}

// Snapshot describes every group, in the order of the configuration; nil, if s is.
func (s *Scaler) Snapshot() []Snapshot {
	if s == nil {
		return nil
	}
	all := make([]Snapshot, 0, len(s.groups))
	for _, g := range s.groups {
		g.mu.Lock()
		all = append(all, g.seen)
		g.mu.Unlock()
	}
	return all
}

// Snapshot describes a group at one moment.
type Snapshot struct {
	Group      string `json:"group"`
	Deployment string `json:"deployment"`
	Min        int    `json:"min"`    // pods
	Max        int    `json:"max"`    // pods
	Slots      int    `json:"slots"`  // workers in each pod
	Wanted     int    `json:"wanted"` // workers, by sessions
	Need       int    `json:"need"`   // pods for these, between min and max
	Pods       int    `json:"pods"`   // that the Deployment is told to have
	Ready      int    `json:"ready"`
	// Leaving are the pods that are out of the pool, since they are to be deleted.
	Leaving int `json:"leaving,omitempty"`
	// Conditions are what is in the way, worst first.
	Conditions []Condition `json:"conditions,omitempty"`
}
