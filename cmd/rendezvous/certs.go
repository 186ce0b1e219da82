package main

import (
	"fmt"
	"io"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"github.com/psock-runtime/psock-runtime/internal/program"
)

// certs makes certificates for those without Kubernetes.
type certs struct {
	Dir        string        `help:"Directory to make: DIR/ca.crt and ca.key, DIR/rendezvous and DIR/worker for the two --tls-dir flags. An existing CA is kept and the other certificates are made anew." required:"" placeholder:"DIR"`
	Validity   time.Duration `help:"How long the certificates are valid." default:"8760h"`
	WorkerName string        `help:"DNS name in the workers' certificate: --worker-name of the rendezvous." default:"worker" placeholder:"NAME"`
}

// Validate checks what a look at the flags alone can tell.
func (c *certs) Validate() error {
	if c.Validity <= 0 {
		return fmt.Errorf("--validity: %s, give a positive duration such as 8760h", c.Validity)
	}
	return nil
}

// Run makes them.
func (c *certs) Run(out io.Writer) error {
	if err := mtls.Generate(c.Dir, mtls.GenerateOptions{Validity: c.Validity, WorkerName: c.WorkerName}); err != nil {
		return program.Configf("--dir %s: %w", c.Dir, err)
	}
	fmt.Fprintf(out, "rendezvous --tls-dir %s/rendezvous\nworker-agent --tls-dir %s/worker\n", c.Dir, c.Dir)
	return nil
}
