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

func main() {
	if code, parent := pid1.Run(); parent {
		os.Exit(code)
	}
	os.Exit(program.Run(context.Background(), &agentCommand{}, "worker-agent", description, os.Args[1:], os.Stdout, os.Stderr))
}
