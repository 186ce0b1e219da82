package scaler

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

const (
	// restPace is how often a Deployment is read in which nothing goes on.
	restPace = 10 * time.Second
	// attempts bounds how often a change is decided anew at once when the Deployment has
	// changed meanwhile, as it does while pods come up.
	attempts = 4
	// retryFirst and retryMost bound the wait after a request that failed.
	retryFirst = time.Second
	retryMost  = 15 * time.Second
	// marking is how many pods are marked at the same time.
	marking = 8
	// asking is how often, at most, it is looked whether nodes are being added.
	asking = 10 * time.Second
	// telling is how often, at most, it is logged what pods are waited for.
	telling = 10 * time.Second
)

// group is one group that is scaled. Its goroutine, run, owns it.
type group struct {
	config  Group
	log     *zap.Logger
	metrics *Metrics
	cluster Cluster
	watch   Pods
	pool    Pool
	wanted  func() map[string]int
	poked   chan struct{} // buffered

	memory     *memory
	deployment Deployment
	read       time.Time // of deployment
	reading    int
	last       decision
	cannotRead error     // why the last reading failed
	cannotDo   error     // why the last change failed
	retry      time.Time // until when neither is tried
	backoff    backoff.BackOff
	nodes      map[string]string // see Cluster.NewNodes
	nodesAsked time.Time
	told       string // what was logged of pods that are waited for
	toldAt     time.Time

	mu       sync.Mutex
	seen     Snapshot
	starting bool
	missing  []pods.Status
}

func newGroup(config Config, g Group) *group {
	config.Metrics.of(g)
	return &group{
		config: g, metrics: config.Metrics, cluster: config.Cluster, watch: config.Pods, pool: config.Pool, wanted: config.Wanted,
		log:   config.Log.With(zap.String("group", g.Name), zap.String("deployment", g.Deployment)),
		poked: make(chan struct{}, 1), memory: newMemory(g), seen: Snapshot{
			Group: g.Name, Deployment: g.Deployment, Min: g.Min, Max: g.Max, Slots: g.Slots,
		},
		backoff: backoff.NewExponentialBackOff(backoff.WithInitialInterval(retryFirst),
			backoff.WithMaxInterval(retryMost), backoff.WithMaxElapsedTime(0)),
	}
}

func (g *group) run(ctx context.Context) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-g.poked:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(gather):
			}
			// Sessions that take turns announce a lot, and want no more than they did.
			if g.last.need == g.config.Max || g.config.bounded(g.demand()) <= g.last.need {
				select {
				case <-tick.C:
				default:
					continue
				}
			}
		}
		g.step(ctx, time.Now())
	}
}

// step looks, decides and acts once.
func (g *group) step(ctx context.Context, now time.Time) {
	v := g.look(now)
	defer g.publish(&v)
	defer g.askForNodes(ctx, &v)
	g.memory.want(now, v.wanted)
	fresh := false
	for range attempts {
		if !fresh && g.due(&v) {
			if fresh = g.reads(ctx, &v); !fresh {
				break
			}
		}
		g.decide(v)
		if v.reading == 0 || now.Before(g.retry) {
			return
		}
		if !g.last.acts(v) {
			g.done(nil)
			return
		}
		if !fresh { // only on what is, not on what was a moment ago
			if fresh = g.reads(ctx, &v); !fresh {
				break
			}
			continue
		}
		if err := g.act(ctx, v); err == nil || failure(err) != conflict {
			return
		}
		fresh, g.read = false, time.Time{}
	}
	g.decide(v) // what became of pods that are leaving
}

// acts reports whether there is anything to be done at the API server.
func (d decision) acts(v view) bool { return d.replicas != v.deployment.Replicas || len(d.unmark) > 0 }

// look sees what can be seen without a request.
func (g *group) look(now time.Time) view {
	v := view{
		now: now, wanted: g.demand(), deployment: g.deployment, reading: g.reading, pods: g.watch.Group(g.config.Name),
		idle: sync.OnceValue(g.idle),
	}
	agents := g.pool.Agents(g.config.Name)
	v.agents = make(map[string]bool, len(agents))
	for _, name := range agents {
		v.agents[name] = true
	}
	return v
}

// demand is how many of the group's workers are wanted.
func (g *group) demand() int {
	all := g.wanted()
	if g.config.Name == pool.DefaultGroup {
		return all[g.config.Name] + all[""]
	}
	return all[g.config.Name]
}

// idle is the agents that nobody uses, with their places in the order in which they go.
func (g *group) idle() map[string]int {
	names := g.pool.Idle(g.config.Name)
	idle := make(map[string]int, len(names))
	for i, name := range names {
		idle[name] = i
	}
	return idle
}

// due reports whether the Deployment is to be read: often while something goes on.
func (g *group) due(v *view) bool {
	if v.now.Before(g.retry) {
		return false
	}
	age := v.now.Sub(g.read)
	return g.reading == 0 || age >= restPace || age >= pace*9/10 &&
		(!g.deployment.settled() || len(g.memory.leaving) > 0 || !g.memory.short.since.IsZero() || g.cannotRead != nil || g.cannotDo != nil)
}

// reads reads the Deployment and reports whether it could.
func (g *group) reads(ctx context.Context, v *view) bool {
	deployment, err := g.cluster.Deployment(ctx, g.config.Deployment)
	if err != nil {
		g.cannotRead = g.failed(ctx, v.now, err)
		return false
	}
	g.cannotRead = nil
	g.ease()
	g.deployment, g.read = deployment, v.now
	g.reading++
	v.deployment, v.reading = deployment, g.reading
	return true
}

// askForNodes looks whether nodes are being added for pods that have none. It is no
// trouble when that cannot be told.
func (g *group) askForNodes(ctx context.Context, v *view) {
	if !slices.ContainsFunc(v.pods, unassigned) {
		g.nodes = nil
		return
	}
	if !v.now.Before(g.retry) && v.now.Sub(g.nodesAsked) >= asking {
		g.nodesAsked = v.now
		g.nodes, _ = g.cluster.NewNodes(ctx)
	}
	for i, pod := range v.pods {
		if said := g.nodes[pod.Name]; said != "" && unassigned(pod) {
			v.pods[i].Reason = pods.OneLine("a node is being added: " + said)
		}
	}
}

func unassigned(pod pods.Status) bool { return pod.Node == "" && !pod.Leaves }

// failed counts an error and has the next request wait; it returns the error, nil for one
// that is no trouble: our own end, and a Deployment that has changed meanwhile.
func (g *group) failed(ctx context.Context, now time.Time, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	reason := failure(err)
	g.metrics.failures.WithLabelValues(g.config.Name, reason).Inc()
	if reason == conflict {
		return nil
	}
	g.retry = now.Add(g.backoff.NextBackOff())
	return err
}

// done takes over how a change ended, nil if well, or if there was none to be made.
func (g *group) done(trouble error) {
	g.cannotDo = trouble
	g.ease()
}

// ease ends the waits between requests when none fails any more. A change that is
// refused while the Deployment can be read is tried again ever more rarely.
func (g *group) ease() {
	if g.cannotRead == nil && g.cannotDo == nil {
		g.retry = time.Time{}
		g.backoff.Reset()
	}
}

// decide decides, and puts back into the pool what does not leave it.
func (g *group) decide(v view) {
	g.last = g.memory.decide(v)
	for _, name := range g.last.release {
		g.pool.Uncordon(name)
	}
}

// act does what was decided.
func (g *group) act(ctx context.Context, v view) error {
	d := g.last
	err := each(d.unmark, func(pod string) error { return g.cluster.Unmark(ctx, pod) })
	if err == nil {
		for _, pod := range d.unmark {
			delete(g.memory.marked, pod)
		}
	}
	if err == nil && d.replicas != v.deployment.Replicas {
		err = g.scale(ctx, v, d)
	}
	if err != nil {
		g.done(g.failed(ctx, v.now, err))
		return err
	}
	g.done(nil)
	return nil
}

// scale tells the Deployment its number of replicas, with the victims out of the pool
// and marked before.
func (g *group) scale(ctx context.Context, v view, d decision) error {
	from := v.deployment.Replicas
	kept := g.cordon(v.now, d.victims)
	replicas := d.replicas + len(d.victims) - len(kept)
	if replicas == from {
		return nil // all are in use after all
	}
	marks := kept
	if replicas == 0 {
		marks = nil // all go: there is nothing to choose
	} else if d.replicas == 0 {
		g.hand(kept) // marks were not reckoned with
		return nil
	}
	for _, pod := range marks {
		g.memory.marked[pod] = mark{since: v.now, ours: true}
	}
	if err := each(marks, func(pod string) error { return g.cluster.Mark(ctx, pod) }); err != nil {
		g.hand(kept)
		return err
	}
	err := g.cluster.Scale(ctx, g.config.Deployment, v.deployment, replicas)
	switch {
	case err == nil && d.restores:
		g.memory.restored(v.now, replicas)
	case err == nil:
		g.memory.told(v.now, replicas)
	case failure(err) == unreachable: // it may have been done
		g.memory.sent = replicas
		return err
	default:
		g.hand(kept)
		return err
	}
	g.read = time.Time{}
	g.report(v, d, from, replicas, kept)
	return nil
}

// cordon takes victims out of the pool. One that is in use after all would be deleted
// before those of a later class: they stay as well.
func (g *group) cordon(now time.Time, victims []victim) (kept []string) {
	last := classes
	for _, x := range victims {
		if x.class > last {
			break
		}
		if !g.pool.Cordon(x.pod) {
			last = x.class
			continue
		}
		g.memory.leaving[x.pod] = &leaving{since: now}
		kept = append(kept, x.pod)
	}
	return kept
}

// hand puts agents back into the pool.
func (g *group) hand(names []string) {
	for _, name := range names {
		delete(g.memory.leaving, name)
		g.pool.Uncordon(name)
	}
}

// each calls do for each name, some at a time, and returns an error of these.
func each(names []string, do func(string) error) error {
	var calls errgroup.Group
	calls.SetLimit(marking)
	for _, name := range names {
		calls.Go(func() error { return do(name) })
	}
	return calls.Wait()
}

func (g *group) report(v view, d decision, from, to int, leaving []string) {
	direction, message := up, "more worker pods"
	if to < from {
		direction, message = down, "fewer worker pods"
	}
	g.metrics.changes.WithLabelValues(g.config.Name, direction).Inc()
	g.log.Info(message, zap.Int("from", from), zap.Int("to", to), zap.Int("wantedWorkers", v.wanted), zap.Int("neededPods", d.need),
		zap.Bool("notDeleted", d.restores), zap.Strings("pods", leaving[:min(len(leaving), 10)]))
}
