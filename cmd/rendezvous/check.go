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
	RoleBinding string        `help:"RoleBinding in this pod's namespace to delete at the end, whatever comes of the command: that of the right to run it." placeholder:"NAME"`
	Command     []string      `arg:"" help:"The command, after --."`
}

// giveUpLimit is how long the deletion of the RoleBinding may take: a request.
const giveUpLimit = 10 * time.Second

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
func (c *check) Run(ctx context.Context, out io.Writer) (err error) {
	api, namespace, err := pods.InCluster()
	if err != nil {
		return program.ConfigError{Err: err}
	}
	if c.RoleBinding != "" {
		defer func() {
			// Also when the pod is told to end, which ends ctx.
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpLimit)
			defer cancel()
			if failed := pods.GiveUp(limited, api, namespace, c.RoleBinding); failed != nil && err == nil {
				err = failed
			} else if failed != nil {
				fmt.Fprintln(os.Stderr, failed)
			}
		}()
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
