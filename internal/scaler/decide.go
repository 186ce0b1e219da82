package scaler

import (
	"slices"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pods"
)

const (
	// leaveLimit is how long pods may take to be deleted once their ReplicaSet was told
	// to have fewer: it does so within a second. Then they go back into the pool.
	leaveLimit = 30 * time.Second
	// quietAfter is how long nothing must have been under way before a pod that was to go, and
	// is still there, is taken for one that stays: what its watch tells may be late.
	quietAfter = time.Second
	// restAfter is how long nothing shrinks after pods were not deleted.
	restAfter = 5 * time.Minute
	// apartAfter is how long a pod may be ready without its agent's being connected here:
	// a connection that is lost in silence is noticed after 14 s (link.SilenceLimit).
	apartAfter = 30 * time.Second
	// markLimit is how long a mark of nobody's is left alone: a second Scaler may be about
	// to use it.
	markLimit = 2 * requestLimit
	// yieldFirst is how long a number of replicas that somebody else has set below what is
	// wanted is left so; each time it happens again twice as long, up to yieldMost.
	yieldFirst = time.Minute
	yieldMost  = 16 * time.Minute
	// batch bounds the pods that go at a time: each is marked by a request of its own.
	batch = 100
)

// view is what is seen of a group at one moment.
type view struct {
	now        time.Time
	wanted     int        // workers, by sessions
	deployment Deployment // as it was read
	reading    int        // which reading that was, 0 for none yet
	pods       []pods.Status
	agents     map[string]bool // connected
	// idle is those of the agents that nobody uses: the lower, the less useful. It is
	// looked at only when some are to go.
	idle func() map[string]int
}

// staying counts the pods that are not being deleted.
func (v view) staying() (n int) {
	for _, pod := range v.pods {
		if !pod.Leaves {
			n++
		}
	}
	return n
}

// decision is what follows from a view.
type decision struct {
	need      int      // pods for what is wanted
	elsewhere int      // pods that serve others
	goal      int      // pods that there should be, were nothing in the way
	replicas  int      // that the Deployment is to have now
	victims   []victim // pods to take out of the pool before, and to mark
	release   []string // agents to put back into it, at once
	unmark    []string // pods that stay and have a mark
	restores  bool     // replicas takes back that pods were to be deleted
	rated     bool     // the group's rate is in the way
}

// memory is what a group's decisions are made from, beside what is seen. It asks nobody
// for the time or anything else.
type memory struct {
	config   Group
	uid      string // of the Deployment
	replicas int    // that it was last seen, or told, to have
	since    time.Time
	peaks    peaks   // of pods needed, known without a gap from since on
	growths  growths // for the rate
	leaving  map[string]*leaving
	fewest   int       // pods needed since it was met last
	sent     int       // replicas of a request whose fate is not known, -1 for none
	reading  int       // that was met last
	settled  time.Time // when a Deployment that was read was first settled, zero if the last was not
	others   change
	apart    map[string]time.Time // pods that are ready elsewhere, by when that was seen
	marked   map[string]mark      // pods that have a mark, or may have
	rest     time.Time            // until when nothing shrinks
	short    shortage
	failure  failedPods
}

// mark is that of one pod.
type mark struct {
	since time.Time // when it was made, or seen first
	ours  bool      // made by a request of ours, whether its watch has told it or not
}

// leaving is a pod that was taken out of the pool to be deleted.
type leaving struct {
	since time.Time
	told  bool // its ReplicaSet is to have fewer pods
}

// change is what somebody else did to the number of replicas.
type change struct {
	at       time.Time
	from, to int
	low      bool          // less than is wanted
	yield    time.Duration // how long it is left so
}

func newMemory(config Group) *memory {
	return &memory{
		config: config, sent: -1, replicas: -1, leaving: make(map[string]*leaving),
		apart: make(map[string]time.Time), marked: make(map[string]mark),
	}
}

// want notes what is wanted now.
func (m *memory) want(now time.Time, workers int) {
	if m.since.IsZero() {
		m.since = now
	}
	need := m.config.bounded(workers)
	m.fewest = min(m.fewest, need)
	m.peaks.add(now, need, m.config.Idle)
}

// decide says what is to be done. Asked twice at one moment it says the same, but for
// what it has put back into the pool.
func (m *memory) decide(v view) decision {
	need := m.config.bounded(v.wanted)
	m.meet(v)
	d := decision{need: need, elsewhere: m.elsewhere(v), replicas: v.deployment.Replicas}
	d.goal = min(need+d.elsewhere, m.config.Max)
	stuck := m.review(v, &d)
	strays := m.strays(v)
	switch {
	case stuck > 0:
		// As many as there are keep them all, and what has been asked for since may be more.
		d.replicas, d.restores = max(d.replicas, d.goal, min(d.replicas+stuck, v.staying())), true
	case d.goal > d.replicas:
		m.grow(v, &d)
	default:
		m.shrink(v, strays, &d)
	}
	for _, name := range strays {
		if v.now.Sub(m.marked[name].since) >= markLimit && len(d.unmark) < batch && !d.takes(name) {
			d.unmark = append(d.unmark, name)
		}
	}
	return d
}

// meet takes over what a Deployment has become since it was last read.
func (m *memory) meet(v view) {
	if v.reading == m.reading {
		return
	}
	m.reading = v.reading
	now := v.deployment
	switch {
	case now.UID != m.uid: // the first, or one that was made anew
		m.uid, m.replicas, m.settled, m.others, m.since = now.UID, now.Replicas, time.Time{}, change{}, v.now
		m.failure = failedPods{}
		m.untold()
	case now.Replicas == m.replicas:
	case now.Replicas == m.sent:
		m.told(v.now, m.sent)
	default:
		m.changed(v.now, now.Replicas)
	}
	m.failure = m.failure.after(now)
	m.sent, m.fewest = -1, m.config.bounded(v.wanted)
	if !now.settled() {
		m.settled = time.Time{}
	} else if m.settled.IsZero() {
		m.settled = v.now
	}
}

// changed takes over that somebody else has set the number of replicas. More than are
// wanted stay for the idle time, as if they had been; fewer are left so for a while, and
// longer when it happens again: two who set the number in turn would do harm to all.
func (m *memory) changed(now time.Time, replicas int) {
	other := change{at: now, from: m.replicas, to: replicas, yield: m.config.Idle}
	if replicas < min(m.fewest, m.replicas) {
		other.low, other.yield = true, yieldFirst
		if m.others.low && now.Sub(m.others.at) < 2*m.others.yield+yieldFirst {
			other.yield = min(2*m.others.yield, yieldMost)
		}
	}
	m.others = other
	m.replicas, m.since = replicas, now
}

// theirs reports whether the number of replicas is what somebody else has set lately.
func (m *memory) theirs(now time.Time) bool {
	return !m.others.at.IsZero() && m.replicas == m.others.to && now.Sub(m.others.at) < m.others.yield
}

// told takes over that the Deployment has been told to have so many replicas.
func (m *memory) told(now time.Time, replicas int) {
	if replicas > m.replicas {
		m.growths.add(now, replicas-m.replicas)
	}
	m.replicas, m.settled = replicas, time.Time{}
	for _, l := range m.leaving {
		l.told = true
	}
}

// restored takes over that nothing is to be deleted any more: nobody does it.
func (m *memory) restored(now time.Time, replicas int) {
	m.replicas, m.settled, m.rest = replicas, time.Time{}, now.Add(restAfter)
	m.untold()
}

// untold takes over that the pods which are leaving are not to be deleted, after all.
func (m *memory) untold() {
	for _, l := range m.leaving {
		l.told = false
	}
}

// elsewhere counts the pods that are ready for sessions of another rendezvous: to this
// one's they are of no use.
func (m *memory) elsewhere(v view) int {
	count, here := 0, 0
	seen := make(map[string]bool, len(m.apart))
	for _, pod := range v.pods {
		switch {
		case !pod.Ready || pod.Leaves:
		case v.agents[pod.Name]:
			here++
		default:
			seen[pod.Name] = true
			if m.apart[pod.Name].IsZero() {
				m.apart[pod.Name] = v.now
			}
			if v.now.Sub(m.apart[pod.Name]) >= apartAfter {
				count++
			}
		}
	}
	forget(m.apart, seen)
	if here == 0 && len(v.agents) > 0 {
		return 0 // the agents are not called as their pods
	}
	// What the watch tells of pods may be old; so may what was read of the Deployment.
	return min(count, max(v.deployment.Ready-here, 0))
}

// review looks after the pods that are leaving. Those that stay after all are released;
// stuck are those that are not deleted and may still be.
func (m *memory) review(v view, d *decision) (stuck int) {
	if len(m.leaving) == 0 {
		return 0
	}
	byName := make(map[string]pods.Status, len(v.pods))
	for _, pod := range v.pods {
		byName[pod.Name] = pod
	}
	for name, l := range m.leaving {
		pod, there := byName[name]
		switch {
		case !there: // deleted: its name is forgotten
		case pod.Leaves:
			continue
		case m.sent >= 0: // it will be seen what became of the request, however late
			continue
		case l.told && !m.quiet(v.now):
			if v.now.Sub(l.since) > leaveLimit {
				stuck++
			}
			continue
		}
		delete(m.leaving, name)
		d.release = append(d.release, name)
	}
	slices.Sort(d.release)
	return stuck
}

// quiet reports whether every pod that was to be deleted is being so.
func (m *memory) quiet(now time.Time) bool {
	return !m.settled.IsZero() && now.Sub(m.settled) >= quietAfter
}

// strays are the pods that have a mark and are not leaving: a request came to nothing,
// or a Scaler was ended. The mark would have them deleted first, however busy they are.
func (m *memory) strays(v view) (names []string) {
	there := make(map[string]bool, len(m.marked))
	for _, pod := range v.pods {
		known, marked := m.marked[pod.Name]
		if pod.Cost != markCost && !known.ours || pod.Leaves {
			continue
		}
		there[pod.Name] = true
		if !marked {
			m.marked[pod.Name] = mark{since: v.now}
		}
		if m.leaving[pod.Name] == nil {
			names = append(names, pod.Name)
		}
	}
	for name := range m.marked {
		if !there[name] {
			delete(m.marked, name)
		}
	}
	return names
}

func (d decision) takes(pod string) bool {
	return slices.ContainsFunc(d.victims, func(x victim) bool { return x.pod == pod })
}

func forget(all map[string]time.Time, but map[string]bool) {
	for name := range all {
		if !but[name] {
			delete(all, name)
		}
	}
}

// grow has pods for what is wanted and not there, at once.
func (m *memory) grow(v view, d *decision) {
	if m.others.low && m.theirs(v.now) {
		return
	}
	more := d.goal - d.replicas
	if m.config.Rate > 0 {
		room := max(m.config.Rate-m.growths.within(v.now, time.Minute), 0)
		d.rated = room < more
		more = min(more, room)
	}
	d.replicas += more
}

// shrink has fewer pods, if fewer have been wanted for the idle time: those that could
// not be made, and those that nobody uses.
func (m *memory) shrink(v view, strays []string, d *decision) {
	surplus := d.replicas - min(max(m.peaks.most(), d.need)+d.elsewhere, m.config.Max)
	if surplus <= 0 || len(m.leaving) > 0 || !v.deployment.settled() ||
		v.now.Sub(m.since) < m.config.Idle || v.now.Before(m.rest) {
		return
	}
	unmade := min(surplus, d.replicas-v.deployment.Pods)
	d.victims = choose(v, surplus-unmade, m.marked)
	if len(d.victims)+unmade < d.replicas {
		d.victims = d.victims[:min(len(d.victims), batch)]
	}
	for _, name := range strays {
		if !d.takes(name) { // it would go in the place of a victim
			d.victims = nil
			return
		}
	}
	d.replicas -= unmade + len(d.victims)
}
