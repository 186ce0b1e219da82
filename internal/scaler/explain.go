package scaler

import (
	"fmt"
	"strings"

	"github.com/psock-runtime/psock-runtime/internal/pods"
)

// shown bounds the pods that are named: an R error is cut at 8 KB.
const shown = 3

// explain says in one line how far a group is, and what is in the way.
func explain(s Snapshot, missing []pods.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d pods run", s.Ready, max(s.Need, s.Pods))
	for _, c := range s.Conditions {
		if c.Type != Paused {
			fmt.Fprintf(&b, "; %s: %s", c.Reason, c.Message)
		}
	}
	b.WriteString(named(missing, shown))
	return b.String()
}

// named is what is wrong with up to n pods: "; future-worker-x: Unschedulable: ...".
func named(missing []pods.Status, n int) string {
	var b strings.Builder
	for i, pod := range missing {
		if i == n {
			fmt.Fprintf(&b, "; and %d more", len(missing)-n)
			break
		}
		b.WriteString("; " + pod.Name + ": " + pod.Reason)
	}
	return b.String()
}
