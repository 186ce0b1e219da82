package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/program"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/exec"
)

// check runs a command in a container of another pod: `helm test` runs R code beside
// the session, since nobody else can use its workers.
type check struct {
	PodSelector string        `help:"Label selector of the pod, in this pod's namespace." required:"" placeholder:"SELECTOR"`
	Container   string        `help:"Container in which to run it." required:"" placeholder:"NAME"`
	Timeout     time.Duration `help:"How long it may take." default:"2m"`
	Command     []string      `arg:"" help:"The command, after --."`
}

// Validate checks what a look at the flags alone can tell.
func (c *check) Validate() error {
	if _, err := labels.Parse(c.PodSelector); err != nil {
		return fmt.Errorf("--pod-selector: %q is no label selector such as app=future,component=scheduler: %w", c.PodSelector, err)
	}
	if c.Timeout <= 0 {
		return fmt.Errorf("--timeout: %s, give a positive duration such as 2m", c.Timeout)
	}
	return nil
}

// Run runs the command and ends with its exit code.
func (c *check) Run(ctx context.Context, out io.Writer) error {
	api, namespace, err := pods.InCluster()
	if err != nil {
		return program.ConfigError{Err: err}
	}
	selector, err := labels.Parse(c.PodSelector)
	if err != nil {
		return program.ConfigError{Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("it did not end within --timeout %s", c.Timeout))
	defer cancel()
	err = pods.Exec(ctx, api, namespace, selector, c.Container, c.Command, out, os.Stderr)
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		return program.ExitError{Code: exit.Code, Err: fmt.Errorf("%s in %s failed: exit code %d", c.Command[0], c.Container, exit.Code)}
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s in %s: %w", c.Command[0], c.Container, context.Cause(ctx))
	}
	return err
}
