package elastic_test

import (
	"slices"
	"time"
)

// change is what became of one change of the load.
type change struct {
	mark
	target int           // pods
	asked  time.Duration // after the change: the Deployment was to have as many
	ready  time.Duration // as many were ready, or no more
	over   int           // most pods asked for beyond what was wanted at any time of the idle window
	under  int           // most pods missing after the target was met
}

// mark is a moment at which the load changes.
type mark struct {
	at   time.Duration
	what string
}

// settles is how long after a change what is wanted is the change's: sessions begin
// within it.
const settles = time.Second

func (w *world) changes(marks []mark, end time.Duration) []change {
	var all []change
	for i, m := range marks {
		until := end
		if i+1 < len(marks) {
			until = marks[i+1].at
		}
		all = append(all, w.change(m, until))
	}
	return all
}

func (w *world) change(m mark, until time.Duration) change {
	s := change{mark: m, asked: -1, ready: -1}
	samples := w.between(m.at, until)
	before := w.between(m.at-look, m.at)[0]
	s.target = min(w.between(m.at+settles, until)[0].wanted, w.most)
	up := s.target > before.asked
	if !up {
		s.target = min(samples[len(samples)-1].wanted, w.most)
	}
	met := func(n int) bool { return up && n >= s.target || !up && n <= s.target }
	for _, x := range samples {
		if s.asked < 0 && met(x.asked) {
			s.asked = x.at - m.at
		}
		if s.ready < 0 && met(x.ready) {
			s.ready = x.at - m.at
		}
		peak := 0
		for _, y := range w.between(max(0, x.at-w.idle-2*time.Second), x.at+look) {
			peak = max(peak, min(y.wanted, w.most))
		}
		s.over = max(s.over, x.asked-peak)
		if s.ready >= 0 {
			s.under = max(s.under, min(x.wanted, w.most)-x.ready)
		}
	}
	return s
}

// mean is how many workers of a session of a kind computed on average.
func (w *world) mean(kind string, from, until time.Duration) float64 {
	sum, n := 0, 0
	for i, s := range w.sessions {
		if s.kind == kind && s.from < until && s.until > from {
			for _, x := range w.between(from, until) {
				sum += x.busy[i]
				n++
			}
		}
	}
	return float64(sum) / float64(max(n, 1))
}

func (w *world) kinds() (kinds []string) {
	for _, s := range w.sessions {
		if !slices.Contains(kinds, s.kind) {
			kinds = append(kinds, s.kind)
		}
	}
	return kinds
}

// fairness is Jain's index of what the sessions had on average that were there from the
// beginning of a stretch of time to its end: 1 when all had the same, 1/n when one had
// everything.
func (w *world) fairness(from, until time.Duration) float64 {
	var sum, squares float64
	n := 0
	for i, s := range w.sessions {
		if s.from > from || s.until < until {
			continue
		}
		share := 0.0
		for _, x := range w.between(from, until) {
			share += float64(x.busy[i])
		}
		sum += share
		squares += share * share
		n++
	}
	return sum * sum / (float64(n) * squares)
}
