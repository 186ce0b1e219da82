package sockdiag

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// commandLimit bounds what is read of a command line, in bytes: R's with all that
// parallelly adds has some 500.
const commandLimit = 16 << 10

// Awaited reports whether there is a process whose command line says that it is, or starts, a
// worker which connects to port on this machine, as those of parallel, parallelly and snow have
// it: MASTER=HOST and PORT=NUMBER. It sees the processes of its own PID namespace only, so that
// false says little.
func Awaited(port uint16) (bool, error) { return awaited("/proc", port) }

func awaited(proc string, port uint16) (bool, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		// What cannot be read has ended, or is another user's.
		if command, err := readCommand(filepath.Join(proc, e.Name(), "cmdline")); err == nil && connectsTo(command, port) {
			return true, nil
		}
	}
	return false, nil
}

func readCommand(name string) (command []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, commandLimit))
}

// connectsTo reports whether a command line, a shell's around it included, is a worker's.
func connectsTo(command []byte, port uint16) bool {
	_, rest, found := bytes.Cut(command, []byte("MASTER="))
	if !found {
		return false
	}
	wanted := []byte("PORT=" + strconv.Itoa(int(port)))
	for {
		if _, rest, found = bytes.Cut(rest, wanted); !found {
			return false
		}
		if len(rest) == 0 || rest[0] < '0' || rest[0] > '9' {
			return true
		}
	}
}
