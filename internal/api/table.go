package api

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
)

// WriteTable writes state for people, as of now.
func WriteTable(out io.Writer, state State, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	activity := make(map[string]relay.Activity)
	for _, c := range state.Clusters {
		for _, n := range c.Nodes {
			if n.Worker != "" {
				activity[n.Worker] = n.Activity
			}
		}
	}
	fmt.Fprintln(w, "WORKER\tNODE\tSTATE\tFOR\tPID\tMEMORY\tCALLS\tBUSY\tCLUSTER\tREASON")
	for _, s := range state.Workers {
		name := s.Name()
		what := string(s.State)
		a := activity[name]
		if a.Busy {
			what = "busy"
		}
		reason := s.Reason
		if reason == "" && s.LastExit != "" {
			reason = "last worker: " + s.LastExit
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, text(s.Node), what, age(now, s.Since),
			dash(s.PID), memory(s.MemoryBytes), dash(int(a.Calls)), duration(a.BusyTime), text(s.Cluster), text(reason))
	}
	for _, p := range state.Pods {
		fmt.Fprintf(w, "%s\t-\tpod\t-\t-\t-\t-\t-\t-\t%s\n", p.Name, text(p.Reason))
	}
	if len(state.Workers) == 0 {
		fmt.Fprintln(w, "(no worker agent is connected)")
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "CLUSTER\tPORT\tUSER\tFOR\tNODES\tWAITING\tCALLS\tUNMET DEMAND")
	for _, c := range state.Clusters {
		waiting, calls := 0, int64(0)
		for _, n := range c.Nodes {
			if n.State == "waiting" {
				waiting++
			}
			calls += n.Activity.Calls
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%d\t%d\t%d\t%s\n", c.ID, c.Port, c.UID, age(now, c.Since),
			len(c.Nodes), waiting, calls, text(c.Refusal))
	}
	if len(state.Clusters) == 0 {
		fmt.Fprintln(w, "(no cluster)")
	}
	writeLeases(w, state.Leases, now)
	writeScaling(w, state.Scaling, now)
	return w.Flush()
}

// writeLeases adds the leases, if there are any.
func writeLeases(w io.Writer, leases []lease.Snapshot, now time.Time) {
	if len(leases) == 0 {
		return
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "LEASE\tPORT\tUSER\tFOR\tGROUP\tWORKERS\tREADY\tSTATE\tMESSAGE")
	for _, l := range leases {
		name, workers := l.Label, fmt.Sprint(l.Workers)
		if name == "" {
			name = l.ID[:min(len(l.ID), 8)]
		}
		if l.Share {
			workers += " in turns"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%d\t%s\t%s\n", name, l.Port, l.UID, age(now, l.Since),
			text(l.Group), workers, l.Ready, l.State, text(l.Message))
	}
}

// writeScaling writes a row for each group that is scaled, and one more for each further
// condition.
func writeScaling(w io.Writer, groups []scaler.Snapshot, now time.Time) {
	if len(groups) == 0 {
		return
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "GROUP\tDEPLOYMENT\tWANTED\tPODS\tREADY\tLEAVING\tMIN\tMAX\tFOR\tCONDITION")
	for _, g := range groups {
		row := fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%s\t%d\t%d", g.Group, g.Deployment, g.Wanted, g.Pods, g.Ready, dash(g.Leaving), g.Min, g.Max)
		if len(g.Conditions) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\n", row)
		}
		for i, c := range g.Conditions {
			if i > 0 {
				row = "\t\t\t\t\t\t\t"
			}
			fmt.Fprintf(w, "%s\t%s\t%s, %s: %s\n", row, age(now, c.Since), c.Type, c.Reason, c.Message)
		}
	}
}

func age(now, since time.Time) string { return duration(now.Sub(since)) }

func duration(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

// memory is a number of bytes as people read it.
func memory(bytes int64) string {
	const mib, gib = 1 << 20, 1 << 30
	switch {
	case bytes == 0:
		return "-"
	case bytes < gib:
		return fmt.Sprintf("%dMiB", (bytes+mib/2)/mib)
	default:
		return fmt.Sprintf("%.1fGiB", float64(bytes)/gib)
	}
}

func dash(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func text(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
