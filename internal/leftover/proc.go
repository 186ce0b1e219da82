package leftover

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Whose marks look reads: those of all processes, and of none.
const (
	allMarks = 0
	noMarks  = math.MaxUint64
)

// look lists the processes of this namespace, without zombies, with the marks of those that
// started at since or later. The next worker waits for it, and a machine may have thousands
// of processes: of most it reads one small file, and in that the three fields that matter.
func look(since uint64) (processes, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make(processes, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue // no process
		}
		p, lives := read(pid)
		if !lives {
			continue
		}
		if p.start >= since {
			p.mark = markOf(pid)
		}
		all[pid] = p
	}
	return all, nil
}

// read reads what a process is, but for its mark; false if it has ended, or only waits to be
// waited for.
func read(pid int) (process, bool) {
	s, err := readStat(pid)
	if err != nil || s.state == "Z" || s.state == "X" {
		return process{}, false
	}
	return process{identity: identity{pid, s.start}, parent: s.parent}, true
}

// stat is what /proc/PID/stat has for us.
type stat struct {
	name, state string
	parent      int
	start       uint64
}

func readStat(pid int) (stat, error) {
	// os.ReadFile takes twice as long. The file is shorter than this, and read at once.
	var text [4 << 10]byte
	file, err := uninterrupted(func() (int, error) {
		return unix.Open(path(pid, "stat"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return stat{}, err
	}
	n, err := uninterrupted(func() (int, error) { return unix.Read(file, text[:]) })
	_ = unix.Close(file) // it was read, and has nothing to lose
	if err != nil {
		return stat{}, err
	}
	return parseStat(text[:n])
}

// uninterrupted repeats a system call that a signal has interrupted: the process that it is
// about must not be taken for one that has ended.
func uninterrupted(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// parseStat reads "PID (NAME) STATE PARENT ...", where the name may have anything in it;
// see proc_pid_stat(5).
func parseStat(text []byte) (s stat, err error) {
	const state, parent, start = 0, 1, 19 // as the fields behind the name are counted
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("unexpected /proc/PID/stat: %q", text)
	}
	s.name = string(text[open+1 : end])
	fields := 0
	for field := range bytes.FieldsSeq(text[end+1:]) {
		switch fields {
		case state:
			s.state = string(field)
		case parent:
			s.parent, err = strconv.Atoi(string(field))
		case start:
			s.start, err = strconv.ParseUint(string(field), 10, 64)
			return s, err
		}
		if err != nil {
			return stat{}, err
		}
		fields++
	}
	return stat{}, fmt.Errorf("unexpected /proc/PID/stat: %q", text)
}

// markOf is a process's mark, see process.
func markOf(pid int) string {
	environment, err := os.ReadFile(path(pid, "environ"))
	if err != nil {
		return ""
	}
	return parseMark(environment)
}

// parseMark finds the value of Variable among entries that a zero byte ends.
func parseMark(environment []byte) string {
	for entry := range bytes.SplitSeq(environment, []byte{0}) {
		if value, found := bytes.CutPrefix(entry, []byte(Variable+"=")); found {
			return string(value)
		}
	}
	return ""
}

func path(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }

// descendants are the descendants of a process, found from parent to child: an R has few,
// where a machine has hundreds of processes to look at.
func descendants(pid int) (found []identity) {
	// A kernel without these files (CONFIG_PROC_CHILDREN) has the variable all the same.
	files, _ := filepath.Glob(path(pid, "task/*/children"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // that thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			if p, lives := read(child); lives && p.parent == pid {
				found = append(append(found, p.identity), descendants(child)...)
			}
		}
	}
	return found
}

// kill kills the process, and no other that has its number by now.
func (p process) kill() error {
	handle, err := os.FindProcess(p.pid) // a pidfd, where the kernel has them
	if err != nil {
		return nil // it has ended
	}
	defer func() { _ = handle.Release() }()
	now, err := readStat(p.pid)
	if err != nil || now.start != p.start {
		return nil // that one has ended
	}
	if err := handle.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end process %d (%s), which a session has left: %w", p.pid, now.name, err)
	}
	return nil
}
