package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/psock-runtime/psock-runtime/internal/program"
	"github.com/psock-runtime/psock-runtime/internal/rpackages"
	"go.uber.org/zap"
)

// installation is the flags of the R to use and of the packages that it needs.
type installation struct {
	Rscript   string   `help:"The Rscript to run." default:"Rscript" env:"WORKER_AGENT_RSCRIPT"`
	RPackages string   `name:"r-packages" help:"R packages, separated by spaces, to install before the first worker starts if they are missing." env:"EXTRA_R_PACKAGES" placeholder:"NAMES"`
	RLibrary  string   `name:"r-library" help:"Library to install them in; the workers search it first (default: R's first)." env:"WORKER_AGENT_R_LIBRARY" placeholder:"DIR"`
	RRepos    []string `name:"r-repos" help:"Repositories to install them from (default: those that R is configured with)." env:"WORKER_AGENT_R_REPOS" placeholder:"URL,..."`
}

func (i installation) checkNames() error {
	if err := rpackages.CheckNames(strings.Fields(i.RPackages)); err != nil {
		return fmt.Errorf("--r-packages: %w", err)
	}
	return nil
}

// config is what there is to install, with what R says in the log.
func (i installation) config(log *zap.Logger, env []string) rpackages.Config {
	return rpackages.Config{
		Rscript: i.Rscript, Packages: strings.Fields(i.RPackages), Library: i.RLibrary, Repos: i.RRepos, Attempts: 3, Env: env,
		Output: func(line string) { log.Info("R packages", zap.String("line", line)) },
	}
}

// packages installs R packages and ends: beside an R session, which need not wait
// for them.
type packages struct {
	installation
	program.Logging
}

// Validate checks what a look at the flags alone can tell.
func (p *packages) Validate() error {
	if strings.TrimSpace(p.RPackages) == "" {
		return errors.New("--r-packages: name at least one, or set EXTRA_R_PACKAGES")
	}
	return p.checkNames()
}

// Run installs.
func (p *packages) Run(ctx context.Context) error {
	log, err := p.New()
	if err != nil {
		return err
	}
	config := p.config(log, os.Environ())
	log.Info("installing R packages", zap.Strings("packages", config.Packages))
	if err := rpackages.Install(ctx, config); err != nil {
		return err
	}
	log.Info("R packages are installed", zap.Strings("packages", config.Packages))
	return nil
}
