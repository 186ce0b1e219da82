package api

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

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
	fmt.Fprintln(w, "WORKER\tSTATE\tFOR\tPID\tCALLS\tBUSY\tCLUSTER\tREASON")
	for _, s := range state.Workers {
		name := fmt.Sprintf("%s/%d", s.Agent, s.Slot)
		what := string(s.State)
		a := activity[name]
		if a.Busy {
			what = "busy"
		}
		reason := s.Reason
		if reason == "" && s.LastExit != "" {
			reason = "last worker: " + s.LastExit
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, what, age(now, s.Since),
			dash(s.PID), dash(int(a.Calls)), duration(a.BusyTime), text(s.Cluster), text(reason))
	}
	for _, p := range state.Pods {
		fmt.Fprintf(w, "%s\tpod\t-\t-\t-\t-\t-\t%s\n", p.Name, text(p.Reason))
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
	if len(state.Scaling) > 0 {
		writeScaling(w, state.Scaling, now)
	}
	return w.Flush()
}

// writeScaling writes a row for each group, and one more for each further condition.
func writeScaling(w io.Writer, groups []scaler.Snapshot, now time.Time) {
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
