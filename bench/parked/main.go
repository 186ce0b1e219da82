// Command parked measures what one rendezvous carries: the memory and the CPU that it
// takes for parked workers, and how many nodes a second it gives a worker to.
//
//	go run ./bench/parked [-workers 10000]
//
// The rendezvous is the real one, in a process of its own; so are the agents, which are
// fake: they speak the protocol over mutual TLS, and have no R. The sessions are fake,
// too, and do what R does: listen on a port of the range, accept one connection, close
// the listener, make a call, read the answer and hang up.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/mtls"
)

type options struct {
	workers    int
	dialling   int
	idle       time.Duration
	binds      int
	sessions   int
	rendezvous string
	agents     string // not "": this process is the fake agents, who dial this address
	certs      string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, complaints io.Writer) int {
	var o options
	flags := flag.NewFlagSet("parked", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.IntVar(&o.workers, "workers", 10000, "parked workers")
	flags.IntVar(&o.dialling, "dialling", 64, "agents that dial at once: as many as there are workers is a rendezvous that starts again")
	flags.DurationVar(&o.idle, "idle", time.Minute, "how long to measure the CPU of an idle rendezvous")
	flags.IntVar(&o.binds, "binds", 20000, "nodes that get a worker in the last part")
	flags.IntVar(&o.sessions, "sessions", 100, "sessions at once in the last part")
	flags.StringVar(&o.rendezvous, "rendezvous", "", "the rendezvous to measure (default: built from this tree)")
	flags.StringVar(&o.agents, "agents", "", "for this program's own use")
	flags.StringVar(&o.certs, "certs", "", "for this program's own use")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	measure := measure
	if o.agents != "" {
		measure = serveAgents
	}
	if err := measure(ctx, o, out); err != nil {
		fmt.Fprintln(complaints, "parked:", err)
		return 1
	}
	return 0
}

// measure runs the parts one after the other.
func measure(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "parked-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.certs = filepath.Join(dir, "certs")
	if err := mtls.Generate(o.certs, mtls.GenerateOptions{}); err != nil {
		return err
	}
	r, err := startRendezvous(ctx, o, dir)
	if err != nil {
		return err
	}
	defer r.stop()
	empty, err := r.look()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "an empty rendezvous: %.1f MB\n", mega(empty.resident))

	began := time.Now()
	agents, dials, err := startAgents(ctx, o, r)
	if err != nil {
		return err
	}
	defer agents.stop()
	parked, err := r.look()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d agents, %d dial at once: %.1f s until the last worker is parked, %.1f dials and %.2f ms of the rendezvous' CPU each; %.1f MB, at most %.1f MB\n",
		o.workers, o.dialling, time.Since(began).Seconds(), float64(dials)/float64(o.workers), 1000*(parked.cpu-empty.cpu)/float64(o.workers), mega(parked.resident), mega(parked.peak))

	if err := measureIdle(ctx, o, out, r, empty); err != nil {
		return err
	}
	return measureBinds(ctx, o, out, r)
}

// measureIdle is the memory and CPU of a rendezvous that nobody wants anything of.
func measureIdle(ctx context.Context, o options, out io.Writer, r *rendezvous, empty figures) error {
	for _, scrape := range []time.Duration{0, 15 * time.Second} {
		before, err := r.look()
		if err != nil {
			return err
		}
		scrapes, err := r.idle(ctx, o.idle, scrape)
		if err != nil {
			return err
		}
		after, err := r.look()
		if err != nil {
			return err
		}
		if after.open < o.workers {
			return fmt.Errorf("the rendezvous has %d files open: agents have left", after.open)
		}
		fmt.Fprintf(out, "idle for %s, %d scrapes: %.2f %% of a core; %.1f MB, %.1f KB for each worker, %.1f KB beyond the empty rendezvous\n",
			o.idle, scrapes, 100*(after.cpu-before.cpu)/o.idle.Seconds(), mega(after.resident),
			float64(after.resident)/1024/float64(o.workers), float64(after.resident-empty.resident)/1024/float64(o.workers))
	}
	return nil
}

func measureBinds(ctx context.Context, o options, out io.Writer, r *rendezvous) error {
	before, err := r.look()
	if err != nil {
		return err
	}
	began := time.Now()
	latencies, err := bindAll(ctx, o)
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	after, err := r.look()
	if err != nil {
		return err
	}
	n := len(latencies)
	fmt.Fprintf(out, "%d nodes of %d sessions at once: %.0f a second; from listen to the first answer %.1f ms in the median, %.1f ms for 99 %%; %.2f ms of the rendezvous' CPU each; then %.1f MB\n",
		n, o.sessions, float64(n)/took, milli(latencies[n/2]), milli(latencies[n*99/100]), 1000*(after.cpu-before.cpu)/float64(n), mega(after.resident))
	return nil
}

func mega(bytes int) float64 { return float64(bytes) / (1 << 20) }

func milli(d time.Duration) float64 { return 1000 * d.Seconds() }
