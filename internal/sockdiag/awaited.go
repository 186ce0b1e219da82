package sockdiag

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// Awaited reports whether there is a process that is about to connect to port on this machine: its
// command line says that it is, or starts, a worker which connects there, as those of
// parallel, parallelly and snow do (MASTER=HOST and PORT=NUMBER), and it has no connection to that port
// yet. It sees the processes of its own PID namespace only, so that false says little.
func Awaited(port uint16) (bool, error) { return awaited("/proc", port) }

func awaited(proc string, port uint16) (bool, error) {
	fs, err := procfs.NewFS(proc)
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	processes, err := fs.AllProcs()
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	var connected map[string]bool
	for _, p := range processes {
		// What cannot be read has ended, or is another user's.
		command, err := p.CmdLine()
		if err != nil || !connectsTo(command, port) {
			continue
		}
		if connected == nil {
			if connected, err = connectedTo(port); err != nil {
				return false, err
			}
		}
		files, err := p.FileDescriptorTargets()
		if err != nil || !slices.ContainsFunc(files, func(file string) bool { return connected[file] }) {
			return true, nil
		}
	}
	return false, nil
}

// connectedTo are the sockets of this network namespace that are connected to port, as
// /proc/PID/fd names them.
func connectedTo(port uint16) (map[string]bool, error) {
	const established = 1
	table, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	found := make(map[string]bool)
	for line := range lines(table) {
		if e, err := parseLine(line); err == nil && e.state == established && e.remote.Port() == port { // the first line is a heading
			found[fmt.Sprintf("socket:[%d]", e.inode)] = true
		}
	}
	return found, nil
}

// connectsTo reports whether a command line, a shell's around it included, is a worker's.
func connectsTo(command []string, port uint16) bool {
	_, rest, found := strings.Cut(strings.Join(command, "\x00"), "MASTER=")
	if !found {
		return false
	}
	wanted := "PORT=" + strconv.Itoa(int(port))
	for {
		if _, rest, found = strings.Cut(rest, wanted); !found {
			return false
		}
		if len(rest) == 0 || rest[0] < '0' || rest[0] > '9' {
			return true
		}
	}
}
