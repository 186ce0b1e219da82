// Package elastic simulates an elastic pool of workers under a scripted load: the real
// internal/pool and internal/scaler, agents that speak the real protocol (internal/link)
// and have no R, sessions that do with workers what internal/relay does for them, and a
// model of what Kubernetes does with a Deployment. Its time is testing/synctest's: 36
// minutes pass in one, and nothing depends on how fast the machine is.
//
//	go test ./bench/elastic -v                                  # 300 agents, some seconds
//	go test ./bench/elastic -v -full -svg=../../docs/elastic.svg  # 3,000, and costs of 10,000
package elastic_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	full = flag.Bool("full", false, "as docs/scaling.md has it: 3,000 agents instead of 300, and the costs of 10,000")
	svg  = flag.String("svg", "", "the file to draw the picture in, from this directory")
)

func TestElastic(t *testing.T) {
	most, sizes := 300, []int{100, 300}
	if *full {
		most, sizes = 3000, []int{100, 1000, 10000}
	}
	w, turns := simulate(t, most, script(most/30), endAt), simulate(t, 4, few(), 11*time.Minute)
	var all []costs
	for _, n := range sizes {
		all = append(all, measure(t, n))
	}
	fmt.Print(w.tables(turns), table(all))
	if *svg != "" {
		if err := os.WriteFile(*svg, []byte(w.draw(all)), 0o644); err != nil {
			t.Error(err)
		}
	}
	check(t, w, turns)
}

// simulate runs a world of its own.
func simulate(t *testing.T, most int, loads []load, end time.Duration) (w *world) {
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(t, most, 5*time.Minute)
		w.run(loads, end)
	})
	return w
}

// check is what has to be so, whatever the details.
func check(t *testing.T, w, turns *world) {
	for _, c := range w.changes() {
		if c.asked == never || c.ready == never {
			t.Errorf("%s: %d pods were never there", c.what, c.target)
		}
		if c.under > 0 {
			t.Errorf("%s: %d pods fewer than are wanted, after they had been there", c.what, c.under)
		}
		// What is more than wanted goes a hundred at a time.
		if up := c.asked < time.Minute; up && c.over > 0 {
			t.Errorf("%s: %d pods more than were wanted", c.what, c.over)
		}
	}
	for _, x := range []*world{w, turns} {
		if lost := x.total(func(s *session) int64 { return s.lost.Load() }); lost > 0 || x.kube.torn > 0 {
			t.Errorf("%d futures were lost, %d pods were deleted that sessions had", lost, x.kube.torn)
		}
		for i, s := range x.sessions {
			if !s.whole && s.futures.Load() < int64(s.nodes) {
				t.Errorf("session %d (%s) has run %d futures on %d nodes", i, s.kind, s.futures.Load(), s.nodes)
			}
		}
	}
	if jain := w.jain(fairAt, lessAt); jain < 0.98 {
		t.Errorf("Jain's index is %.4f", jain)
	}
	if took := w.first(lease, 1); took > time.Minute {
		t.Errorf("a lease of no more than its share has waited for %s", took)
	}
	// A session takes part in one change of hands in five seconds, as one of two, and in
	// another when a session has come or gone.
	sessions := len(w.shares(lateAt, lessAt, func(*session) bool { return true }))
	minutes := (lessAt - turnsAt).Minutes()
	if fresh := w.fresh(turnsAt, lessAt); float64(fresh) > minutes*12*float64(sessions) {
		t.Errorf("%d workers have changed hands between %d sessions in %.1f minutes", fresh, sessions, minutes)
	}
	if use := w.use(fairAt, lessAt); use < 0.95 {
		t.Errorf("%.1f %% of the workers compute while others wait", 100*use)
	}
}

// tables are what docs/scaling.md shows.
func (w *world) tables(turns *world) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| at | load | pods wanted | asked for after | ready after | asked for beyond need | missing later |\n|---|---|---|---|---|---|---|\n")
	for _, c := range w.changes() {
		fmt.Fprintf(&b, "| %s | %s | %d | %.1f s | %.1f s | %d | %d |\n", c.at, c.what, c.target, c.asked.Seconds(), c.ready.Seconds(), c.over, c.under)
	}
	fmt.Fprintf(&b, "\n| sessions | nodes each | workers each |\n|---|---|---|\n")
	for _, kind := range []string{long, short} {
		workers, n := w.mean(kind, fairAt, lateAt)
		fmt.Fprintf(&b, "| %d, %s | %d | %.1f |\n", n, kind, w.most/30, workers)
	}
	for _, kind := range []string{long, short} {
		workers, n := turns.mean(kind, time.Minute, 10*time.Minute)
		fmt.Fprintf(&b, "| %d, %s, on 4 workers | 4 | %.2f |\n", n, kind, workers)
	}
	fair := float64(w.most) / 41
	fmt.Fprintf(&b, "\nJain's index %.4f, on 4 workers %.2f; %.1f %% of the workers compute, on 4 workers %.1f %%\n",
		w.jain(fairAt, lateAt), turns.jain(time.Minute, 10*time.Minute), 100*w.use(fairAt, lateAt), 100*turns.use(time.Minute, 10*time.Minute))
	fmt.Fprintf(&b, "who comes late has nine tenths of an equal share (%.1f) after %.1f s\n", fair, w.first(late, 0.9*fair).Seconds())
	fmt.Fprintf(&b, "a lease of %d has its workers after %.1f s\n", w.most/60, w.first(lease, 1).Seconds())
	fmt.Fprintf(&b, "%.0f workers change hands in a minute while 41 sessions compete, on 4 workers %.0f\n",
		float64(w.fresh(turnsAt, lessAt))/(lessAt-turnsAt).Minutes(), float64(turns.fresh(time.Minute, 10*time.Minute))/9)
	fmt.Fprintf(&b, "%d futures, %d lost; %d changes of the Deployment\n\n",
		w.total(func(s *session) int64 { return s.futures.Load() }), w.total(func(s *session) int64 { return s.lost.Load() }), w.kube.scales)
	return b.String()
}
