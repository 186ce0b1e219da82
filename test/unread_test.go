package test

import (
	"strings"
	"testing"
)

// R does not read what one node has answered while it waits for another, which waits for
// the worker.
func TestResultsThatRDoesNotRead(t *testing.T) {
	t.Parallel()
	results := `
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
got <- tryCatch(
	length(unlist(future.apply::future_lapply(1:4, function(i) rep(i + 0, 3e6), future.chunk.size = 1))),
	error = conditionMessage)
cat("R has", got, "\n")
`
	setUp := `
cl <- rendezvous::cluster(3, share = TRUE)
big <- rnorm(3e6)
got <- parallel::clusterCall(cl, identity, big)
cat("R has", sum(vapply(got, identical, NA, big)), "\n")
`
	for _, c := range []struct {
		name, code, want string
		env, flags       []string
	}{
		{"of futures", results, "R has 12000000", []string{"NSLOTS=3"}, []string{"--demand-timeout", "10s"}},
		{"of what sets nodes up", setUp, "R has 3", []string{packageEnv(t)}, []string{"--demand-timeout", "10s"}},
		{"without room for them", results, "--journal-disk", []string{"NSLOTS=3"},
			[]string{"--demand-timeout", "2s", "--journal-memory", "1", "--journal-disk", "0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t, c.flags...)
			r.startAgent("pod-a", 1)
			r.awaitWarm(1)
			s := r.startR(c.code, c.env...)
			s.wait()
			if !strings.Contains(s.text(), c.want) {
				t.Errorf("want %q, R says:\n%s", c.want, s.text())
			}
		})
	}
}
