package agent

import (
	"context"
	"regexp"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// Rscript --version answers in a millisecond, without starting R. One that is a script
// may take its time, or go on to start R.
const (
	versionLimit = 30 * time.Second
	// versionPatience is how long a warm worker waits for that: as a rule, not at all.
	versionPatience = time.Second
)

// versionText is what it says: "Rscript (R) version 4.5.1 (2025-06-13)", and before 4.2
// "R scripting front-end version 4.1.2 (2021-11-01)", on stderr.
var versionText = regexp.MustCompile(`version (\d+\.\d+\.\d+)`)

// findVersion asks Rscript for R's version while the first worker starts. One that does
// not tell leaves it unknown.
func (a *Agent) findVersion(ctx context.Context) error {
	found := sync.OnceFunc(func() { close(a.versionFound) })
	defer found()
	process, err := psock.Start(psock.Spec{
		Args: []string{a.config.Command.Args()[0], "--version"}, Env: a.config.Env, Dir: a.config.Dir,
		Output: func(line psock.Line) {
			if match := versionText.FindStringSubmatch(line.Text); match != nil && a.knownVersion() == "" {
				a.version = match[1]
				found()
			}
		},
	})
	if err != nil {
		return nil // no worker starts either, and that is in the log
	}
	limit := time.NewTimer(versionLimit)
	defer limit.Stop()
	select {
	case <-process.Done():
	case <-limit.C:
	case <-ctx.Done():
	}
	process.Stop(a.config.StopGrace)
	return nil
}

// knownVersion is R's version, "" while it is not known.
func (a *Agent) knownVersion() string {
	select {
	case <-a.versionFound:
		return a.version
	default:
		return ""
	}
}

// awaitVersion is knownVersion, with a little patience.
func (a *Agent) awaitVersion(ctx context.Context) string {
	limit := time.NewTimer(versionPatience)
	defer limit.Stop()
	select {
	case <-a.versionFound:
	case <-limit.C:
	case <-ctx.Done():
	}
	return a.knownVersion()
}
