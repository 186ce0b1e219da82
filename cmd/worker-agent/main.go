// Command worker-agent keeps warm R workers and parks them at the rendezvous. It
// is meant to be PID 1 of a worker's container, and works as any process.
package main

import (
	"context"
	"os"

	"github.com/psock-runtime/psock-runtime/internal/pid1"
	"github.com/psock-runtime/psock-runtime/internal/program"
)

const description = "Keeps warm R workers and parks them at the rendezvous beside an R session, " +
	"which gets them when it runs plan(cluster, manual = TRUE, quiet = TRUE)."

type commands struct {
	Run      agentCommand        `cmd:"" default:"withargs" help:"Keep workers and park them (the default)."`
	Inject   inject              `cmd:"" help:"Copy this program into a directory, for an image that is to be a worker and lacks it."`
	Packages packages            `cmd:"" help:"Install R packages that are missing, and end."`
	Version  program.VersionFlag `name:"version" help:"Print the version and exit."`
}

func main() {
	if code, parent := pid1.Run(); parent {
		os.Exit(code)
	}
	os.Exit(program.Run(context.Background(), &commands{}, "worker-agent", description, os.Args[1:], os.Stdout, os.Stderr))
}
