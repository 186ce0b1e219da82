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
	held    int // of the ready, held by the node's own cluster, or by the lease
	others  int // of the ready, held by other clusters
	node    int // which node of its cluster, from 1; 0: any
	wanted  int // not 0: it is a lease for so many that got too few
	waited  time.Duration
	missing []string // slots that are not ready, and why
	scaling string   // how far whoever starts workers is, "" if nobody does
	most    int      // that a cluster may hold at a time; 0: no bound
	kept    int      // of the held, stay with their nodes: calls that are no futures have set something
	unread  int      // of the ready, have answered what R does not read and nothing can keep
}

// missingShown bounds the slots that are named: an R error is cut at 8 KB.
const missingShown = 5

// explain makes the R error's text.
func explain(e explanation) string {
	var b strings.Builder
	who := fmt.Sprintf("node %d waited %s for one", e.node, e.waited.Round(time.Second/10))
	use := "%d in use by this cluster, %d by others"
	switch {
	case e.wanted > 0:
		who = fmt.Sprintf("a lease of %d waited %s", e.wanted, e.waited.Round(time.Second/10))
		use = "%d reserved for it, %d in use by others"
	case e.node == 0:
		who = fmt.Sprintf("a call waited %s for one", e.waited.Round(time.Second/10))
	}
	fmt.Fprintf(&b, "%d of %d workers are ready; %s", e.ready, e.total, who)
	if e.held+e.others > 0 {
		fmt.Fprintf(&b, " ("+use+")", e.held, e.others)
	}
	if e.most > 0 && e.held >= e.most { // whatever else is missing, it would not get it
		fmt.Fprintf(&b, "; --session-workers is %d: ask for at most %d", e.most, e.most)
		return b.String()
	}
	if e.kept > 0 {
		fmt.Fprintf(&b, "; %d of them stay with nodes on which calls that are no futures, as of clusterEvalQ(), have set something", e.kept)
	}
	if e.unread > 0 {
		fmt.Fprintf(&b, "; R does not read what %d of them have answered, and --journal-memory and --journal-disk have no room for it", e.unread)
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
