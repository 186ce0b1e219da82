package elastic_test

import (
	"time"
)

// mark is a moment at which the load changes.
type mark struct {
	at   time.Duration
	what string
}

// change is what became of one.
type change struct {
	mark
	target int           // pods that are wanted from then on
	asked  time.Duration // until the Deployment was to have as many
	ready  time.Duration // until as many were ready, or no more than these
	over   int           // most pods that it was to have beyond all that was wanted in the idle window
	under  int           // most that were missing after they had all been there
}

const (
	// settles is how soon after a mark its sessions want what they want.
	settles = time.Second
	// never is longer than the script.
	never = time.Hour
)

func (w *world) changes() (all []change) {
	for i, m := range marks {
		until := endAt
		if i+1 < len(marks) {
			until = marks[i+1].at
		}
		all = append(all, w.change(m, until))
	}
	return all
}

func (w *world) change(m mark, until time.Duration) change {
	samples := w.between(m.at, until)
	c := change{mark: m, asked: never, ready: never, target: w.bounded(w.between(m.at+settles, until)[0].wanted)}
	up := c.target > samples[0].asked
	if !up { // what runs is waited for
		c.target = w.bounded(samples[len(samples)-1].wanted)
	}
	met := func(n int) bool { return up && n >= c.target || !up && n <= c.target }
	for _, s := range samples {
		if met(s.asked) {
			c.asked = min(c.asked, s.at-m.at)
		}
		if met(s.ready) {
			c.ready = min(c.ready, s.at-m.at)
		}
		c.over = max(c.over, s.asked-w.peak(s.at))
		if c.ready < never {
			c.under = max(c.under, w.bounded(s.wanted)-s.ready)
		}
	}
	return c
}

func (w *world) bounded(wanted int) int { return min(wanted, w.most) }

// peak is the most pods that were wanted in the idle window before a moment. The scaler
// looks once a second, and acts a moment later.
func (w *world) peak(at time.Duration) (most int) {
	for _, s := range w.between(at-w.idle-2*time.Second, at+look) {
		most = max(most, w.bounded(s.wanted))
	}
	return most
}

// mean is how many workers a session of a kind had that computed, on average of those
// that were there all the time, and how many sessions these were.
func (w *world) mean(kind string, from, until time.Duration) (workers float64, sessions int) {
	shares := w.shares(from, until, func(s *session) bool { return s.kind == kind })
	for _, share := range shares {
		workers += share / float64(len(shares))
	}
	return workers, len(shares)
}

// jain is Jain's index of fairness of what the sessions had on average that were there
// all the time: 1 when all had the same, 1/n when one of n had everything.
func (w *world) jain(from, until time.Duration) float64 {
	var sum, squares float64
	shares := w.shares(from, until, func(s *session) bool { return !s.whole })
	for _, share := range shares {
		sum += share
		squares += share * share
	}
	return sum * sum / (float64(len(shares)) * squares)
}

// shares is what sessions had on average.
func (w *world) shares(from, until time.Duration, which func(*session) bool) (shares []float64) {
	samples := w.between(from, until)
	for i, s := range w.sessions {
		if s.from > from || s.until < until || !which(s) {
			continue
		}
		sum := 0
		for _, x := range samples {
			sum += x.busy[i]
		}
		shares = append(shares, float64(sum)/float64(len(samples)))
	}
	return shares
}

// use is what part of the workers that were ready computed, on average.
func (w *world) use(from, until time.Duration) float64 {
	ready, busy := 0, 0
	for _, s := range w.between(from, until) {
		ready += s.ready
		for _, n := range s.busy {
			busy += n
		}
	}
	return float64(busy) / float64(ready)
}

// first is after how long the one session of a kind had so many workers.
func (w *world) first(kind string, workers float64) time.Duration {
	for i, s := range w.sessions {
		if s.kind != kind {
			continue
		}
		for _, x := range w.between(s.from, endAt) {
			if float64(x.busy[i]) >= workers {
				return x.at - s.from
			}
		}
	}
	return never
}

// fresh is how many workers went to sessions, other than from node to node of one.
func (w *world) fresh(from, until time.Duration) int {
	samples := w.between(from, until)
	return samples[len(samples)-1].fresh - samples[0].fresh
}

// total sums up what sessions have counted.
func (w *world) total(count func(*session) int64) (sum int64) {
	for _, s := range w.sessions {
		sum += count(s)
	}
	return sum
}
