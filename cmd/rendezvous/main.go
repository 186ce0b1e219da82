// Command rendezvous pairs R sessions that listen for PSOCK workers with warm
// workers that worker agents have parked. It runs in the network namespace of the
// sessions: as a sidecar of their pod, or on their machine.
package main

import (
	"context"
	"os"

	"github.com/psock-runtime/psock-runtime/internal/program"
)

const description = "Gives R sessions on this machine or in this pod their PSOCK workers: " +
	"worker agents dial in and park warm R workers, and a session that runs " +
	"plan(cluster, manual = TRUE, quiet = TRUE) gets them."

type commands struct {
	Serve   serve               `cmd:"" default:"withargs" help:"Serve sessions and agents (the default)."`
	Status  status              `cmd:"" help:"Print a table of workers, clusters and unmet demand."`
	Certs   certs               `cmd:"" help:"Make a private CA and the certificates of a rendezvous and its workers."`
	Check   check               `cmd:"" help:"Run a command in a container of another pod, as helm test does."`
	Version program.VersionFlag `name:"version" help:"Print the version and exit."`
}

func main() {
	os.Exit(program.Run(context.Background(), &commands{}, "rendezvous", description, os.Args[1:], os.Stdout, os.Stderr))
}
