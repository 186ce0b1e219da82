package broker

import (
	"fmt"
	"strings"
	"time"
)

// explanation is why a node got no worker.
type explanation struct {
	ready   int // workers that are warm or in use
	total   int // slots connected
	held    int // of the ready, held by the node's own cluster
	others  int // of the ready, held by other clusters
	node    int // which node of its cluster, from 1
	waited  time.Duration
	missing []string // slots that are not ready, and why
	scaling string   // how far whoever starts workers is, "" if nobody does
}

// missingShown bounds the slots that are named: an R error is cut at 8 KB.
const missingShown = 5

// explain makes the R error's text.
func explain(e explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d workers are ready; node %d waited %s for one", e.ready, e.total, e.node, e.waited.Round(time.Second/10))
	if e.held+e.others > 0 {
		fmt.Fprintf(&b, " (%d in use by this cluster, %d by others)", e.held, e.others)
	}
	for i, m := range e.missing {
		if i == missingShown {
			fmt.Fprintf(&b, "; and %d more", len(e.missing)-i)
			break
		}
		b.WriteString("; " + m)
	}
	if e.scaling != "" {
		b.WriteString("; scaling: " + e.scaling)
		return b.String()
	}
	switch {
	case e.total == 0:
		b.WriteString("; no worker agent is connected: start some, or see their logs")
	case len(e.missing) == 0 && e.ready > e.others:
		fmt.Fprintf(&b, "; start more workers or ask for at most %d", e.ready-e.others)
	case len(e.missing) == 0:
		b.WriteString("; start more workers or wait for the other sessions")
	}
	return b.String()
}
