package agent

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/leftover"
	"github.com/psock-runtime/psock-runtime/internal/scratch"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
	"go.uber.org/zap"
)

// removeLimit is how long the agent's end may wait for the removal of folders. The next
// agent removes what is left.
const removeLimit = 2 * time.Second

// NoStartupFiles returns the variables that keep R and future from running or reading
// startup files of the user's, which a session may have written: ~/.Rprofile, ~/.Renviron
// and ~/.future.R, and those of the working directory (?Startup, ?future.options). An
// empty name is none; the site's files are read as ever. What env has set itself stays.
// They are no options of R's command line, so that an R that a worker starts in turn
// starts the same way, and --no-environ would leave the site's file out.
func NoStartupFiles(env []string) (more []string) {
	for _, off := range []string{"R_PROFILE_USER=", "R_ENVIRON_USER=", "R_FUTURE_STARTUP_SCRIPT=FALSE"} {
		name, _, _ := strings.Cut(off, "=")
		if !slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			more = append(more, off)
		}
	}
	return more
}

// ownLibrary has R install packages into the worker's own folder, and look for them there
// first. Libraries are known only once R has read its site's files: those of rocker's
// images give R_LIBS a value if it has none. An R that the worker starts has the same ones.
const ownLibrary = `.libPaths(c(file.path(Sys.getenv("` + leftover.Variable + `"), "library"), .libPaths())); ` +
	`Sys.setenv(R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))`

// keepApart sets up what keeps the sessions of this agent's workers apart.
func (a *Agent) keepApart() (err error) {
	parent := a.config.TempDir
	if parent == "" {
		parent = os.TempDir()
	}
	a.folders = scratch.NewFolders(parent, func(err error) {
		a.config.Log.Warn("a folder that a worker has left cannot be removed", zap.Error(err))
	})
	if a.scratch, err = scratch.NewRestored(a.config.Scratch, a.config.Slots > 1, a.folders); err != nil {
		return err
	}
	if a.processes, err = leftover.New(a.config.Container); err != nil {
		return err
	}
	if a.config.Container && !a.processes.Owns() {
		a.config.Log.Info("other processes of the container started before the agent: what sessions leave without the variable " + leftover.Variable + " may be theirs and is left alone")
	}
	return nil
}

// prepare makes everything ready for a worker: what a session has left in the scratch
// folders is gone, unless another worker needs them, and there is a folder for it.
func (a *Agent) prepare() (scratch.Folder, *scratch.User, error) {
	if err := a.scratch.Restore(); err != nil {
		return "", nil, err
	}
	user, err := a.scratch.Start()
	if err != nil {
		return "", nil, err
	}
	folder, err := a.folders.Make()
	if err != nil {
		a.leave(user)
		return "", nil, err
	}
	return folder, user, nil
}

// leave says that a worker does not use the scratch folders any more.
func (a *Agent) leave(user *scratch.User) { a.notMarked(user.Leave()) }

func (a *Agent) notMarked(err error) {
	if err != nil {
		a.config.Log.Error("scratch folders cannot be marked as used: if the agent is killed, the next one does not restore them", zap.Error(err))
	}
}

// restoreLast restores the scratch folders after the last worker.
func (a *Agent) restoreLast() {
	if err := a.scratch.Close(); err != nil {
		a.config.Log.Error("restoring the scratch folders failed; the next agent does it when it starts", zap.Error(err))
	}
}

// spec is what to start as the worker whose folder this is.
func (a *Agent) spec(folder scratch.Folder, port int) psock.Spec {
	command := a.config.Command
	command.Master, command.Port = "127.0.0.1", port
	command.Startup = append([]string{ownLibrary}, command.Startup...)
	env := append(slices.Clip(a.config.Env), leftover.Variable+"="+string(folder), "TMPDIR="+folder.Temporary())
	return psock.Spec{Args: command.Args(), Env: env, Dir: a.config.Dir, OOMKills: a.config.OOMKills}
}

// endLeft ends the processes that a worker has left.
func (s *slot) endLeft(w *leftover.Worker) {
	if err := w.End(); err != nil {
		s.log.Error("processes that a session has left cannot be ended", zap.Error(fmt.Errorf("%w; end them by hand, or start the agent's container again", err)))
	}
}
