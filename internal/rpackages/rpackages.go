// Package rpackages installs the R packages that a user asks for, before the
// first worker starts.
package rpackages

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// The defaults of [Config].
const (
	DefaultAttempts  = 5
	DefaultRetryWait = 2 * time.Second
)

const (
	// maxRetryWait caps the wait between attempts.
	maxRetryWait = 30 * time.Second
	// stopGrace is how long R and its compilers get to end after SIGTERM. They
	// have nothing to save: R installs into a directory of its own and moves
	// the result into the library last.
	stopGrace = 2 * time.Second
)

// installR is the R program that does the work.
//
//go:embed install.R
var installR []byte

// ErrNoRepository is wrapped by the error of [Install] when R has no package
// repository configured and Config names none.
var ErrNoRepository = errors.New("no package repository")

// Config says what [Install] installs, and where from.
type Config struct {
	// Rscript is the path of the Rscript program, or a name to look up in
	// PATH. Default "Rscript".
	Rscript string
	// Packages are the names of the packages. Those that are there already, in
	// any library, are not installed again.
	Packages []string
	// Library is the directory to install into, made if need be, and used by
	// nobody else at that time. R finds packages there only when R_LIBS says
	// so. Default: the first library of R that is writable.
	Library string
	// Repos are the URLs of the repositories. Default: R's option repos.
	Repos []string
	// Env is the whole environment of R, "NAME=value" each. nil inherits.
	Env []string
	// Output is called with each line that R writes. nil discards.
	Output func(line string)
	// Attempts is how often to try before giving up. Default [DefaultAttempts].
	Attempts int
	// RetryWait is the first wait between two attempts, jittered; it doubles
	// each time, up to 30 s. Default [DefaultRetryWait].
	RetryWait time.Duration
}

// PackageError is one package that could not be installed, or loaded.
type PackageError struct {
	// Package is its name.
	Package string
	// Reason is what R said about it last, one line.
	Reason string
	// Absent says that the repositories answered and do not have it.
	Absent bool
}

// Error names the package, and what R said.
func (e *PackageError) Error() string {
	return fmt.Sprintf("R package %s: %s", e.Package, e.Reason)
}

// Install installs the packages that are missing, and then loads every one in
// an R process of its own. It tries again, a limited number of times, unless
// that is of no use: a name that is none, no repository, a package that the
// repositories do not have. The error holds a [*PackageError] for each package
// that failed in the last attempt. When ctx ends, so do R and all that it
// started, and the error is that of ctx.
func Install(ctx context.Context, cfg Config) error {
	if err := CheckNames(cfg.Packages); err != nil {
		return err
	}
	if len(cfg.Packages) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "rpackages-")
	if err != nil {
		return fmt.Errorf("install R packages: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // a few kilobytes in TMPDIR
	script := filepath.Join(dir, "install.R")
	if err := os.WriteFile(script, installR, 0o600); err != nil {
		return fmt.Errorf("install R packages: %w", err)
	}
	if err := backoff.Retry(func() error { return cfg.attempt(ctx, dir, script) }, cfg.backoff(ctx)); err != nil {
		return fmt.Errorf("install R packages: %w", err)
	}
	return nil
}

func (cfg Config) backoff(ctx context.Context) backoff.BackOff {
	attempts := cfg.Attempts
	if attempts < 1 {
		attempts = DefaultAttempts
	}
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = DefaultRetryWait
	if cfg.RetryWait > 0 {
		b.InitialInterval = cfg.RetryWait
	}
	b.MaxInterval = maxRetryWait
	b.Multiplier = 2
	b.MaxElapsedTime = 0 // the number of attempts is the limit
	b.Reset()
	return backoff.WithContext(backoff.WithMaxRetries(b, uint64(attempts-1)), ctx)
}

// attempt runs R once.
func (cfg Config) attempt(ctx context.Context, dir, script string) error {
	result := filepath.Join(dir, "result")
	if err := os.RemoveAll(result); err != nil {
		return err
	}
	var said complaints
	p, err := psock.Start(psock.Spec{
		Args: cfg.args(script, result),
		Env:  cfg.env(),
		Output: func(l psock.Line) {
			said.line(l.Text)
			if cfg.Output != nil {
				cfg.Output(l.Text)
			}
		},
	})
	if err != nil {
		return backoff.Permanent(err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Stop(stopGrace)
		return backoff.Permanent(context.Cause(ctx))
	}
	exit := p.Exit()
	content, err := os.ReadFile(result)
	if err != nil || exit.Code != 0 {
		return fmt.Errorf("%s: %s", strings.Join(cfg.Packages, " "), exit)
	}
	return outcome(string(content), said)
}

// args returns the command line of R. No shell is involved, and what R's own
// front end must not take for an option of its own comes after a script's name.
func (cfg Config) args(script, result string) []string {
	rscript := cfg.Rscript
	if rscript == "" {
		rscript = psock.DefaultRscript
	}
	args := []string{rscript, script, "result=" + result, "library=" + cfg.Library}
	for _, repo := range cfg.Repos {
		args = append(args, "repo="+repo)
	}
	for _, p := range cfg.Packages {
		args = append(args, "package="+p)
	}
	return args
}

// env returns the environment with R's messages in English, whatever the user's
// language is: they end up in the log and in error messages among English ones.
func (cfg Config) env() []string {
	env := cfg.Env
	if env == nil {
		env = os.Environ()
	}
	return append(env[:len(env):len(env)], "LANGUAGE=en")
}

// outcome turns R's result file into an error. An attempt is final when all that
// failed in it is absent or broken: neither gets better by itself.
func outcome(content string, said complaints) error {
	var errs []error
	final := true
	for line := range strings.Lines(content) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
		if len(fields) != 3 {
			return backoff.Permanent(fmt.Errorf("the installer wrote %q where a result belongs", line))
		}
		name, state, text := fields[0], fields[1], fields[2]
		switch state {
		case "ok":
		case "norepo":
			return backoff.Permanent(fmt.Errorf("%w: %s", ErrNoRepository, text))
		case "setup":
			return backoff.Permanent(errors.New(text))
		default:
			errs = append(errs, &PackageError{Package: name, Reason: text, Absent: state == "absent"})
			final = final && (state == "absent" || state == "broken")
		}
	}
	err := errors.Join(errs...)
	switch {
	case err == nil:
		return nil
	case final:
		return backoff.Permanent(err)
	case len(said) > 0:
		return fmt.Errorf("%w (installation: %s)", err, strings.Join(said, "; "))
	}
	return err
}

// packageName is R's rule: letters, digits and dots, two characters at least, a
// letter first, and no dot last. R leaves it to the locale what a letter is;
// repositories take ASCII only.
var packageName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]$`)

// CheckNames fails, and says which and why, when one of packages cannot be the
// name of an R package.
func CheckNames(packages []string) error {
	for _, p := range packages {
		if !packageName.MatchString(p) {
			return fmt.Errorf("%q is not the name of an R package: a name has letters, digits and dots, starts with a letter and does not end with a dot", p)
		}
	}
	return nil
}
