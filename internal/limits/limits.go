// Package limits finds out what the container grants to its processes, and
// shares it out to the workers of an agent.
//
// A container's limits are those of its control groups, version 1 or 2. The
// kernel enforces the memory limit by killing, and on version 2 the kubelet has
// it kill the whole container for one process that takes too much, the agent
// and its other workers included. So each R is given a limit of its own below
// that, which R enforces with an R error: the task fails, the worker lives on.
// The CPU limit is enforced by stopping all threads for the rest of each 100 ms
// once their quota is used up, so a numerical library that starts a thread for
// each of the machine's cores makes a worker slower, not faster.
package limits

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// Limits are what the container grants.
type Limits struct {
	// MemoryBytes is the smallest memory limit of the process's control group
	// and those above it. 0: there is none.
	MemoryBytes int64
	// CPUs is how many CPUs the process may keep busy: the number it may run
	// on, or its quota where that is smaller. It need not be whole.
	CPUs float64
}

// System reads the limits of the calling process from its files.
type System struct {
	// Root is where the file system starts, "/" but in tests. Below it, proc
	// must be mounted; control groups are found from there.
	Root string
	// NumCPU returns on how many CPUs the process may run. nil:
	// [runtime.NumCPU], which counts the scheduling affinity.
	NumCPU func() int
}

// Read returns the limits of this process.
func Read() (Limits, error) { return System{Root: "/"}.Limits() }

// OOMKills returns how many processes of this process's memory control group
// the kernel has killed for lack of memory since the group was made. It fails
// where the kernel keeps no such count: outside of any memory control group, and
// before Linux 4.13.
func OOMKills() (int64, error) { return System{Root: "/"}.OOMKills() }

// Limits reads the limits. A system without control groups has none; an error
// means that there are some and they cannot be read.
func (s System) Limits() (Limits, error) {
	numCPU := s.NumCPU
	if numCPU == nil {
		numCPU = runtime.NumCPU
	}
	limits := Limits{CPUs: float64(numCPU())}

	memory, err := s.controller("memory")
	if err != nil {
		return limits, fmt.Errorf("read memory limit: %w", err)
	}
	if limits.MemoryBytes, err = memory.memoryLimit(); err != nil {
		return limits, fmt.Errorf("read memory limit: %w", err)
	}
	cpu, err := s.controller("cpu")
	if err != nil {
		return limits, fmt.Errorf("read CPU limit: %w", err)
	}
	quota, err := cpu.cpuQuota()
	if err != nil {
		return limits, fmt.Errorf("read CPU limit: %w", err)
	}
	if quota > 0 {
		limits.CPUs = min(limits.CPUs, quota)
	}
	return limits, nil
}

// OOMKills is the function of that name for this system.
func (s System) OOMKills() (int64, error) {
	memory, err := s.controller("memory")
	if err != nil {
		return 0, fmt.Errorf("read OOM kill count: %w", err)
	}
	name := "memory.oom_control"
	if memory.v2 {
		name = "memory.events"
	}
	for _, dir := range memory.dirs {
		file := filepath.Join(dir, name)
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // this group has the controller switched off
		}
		if err != nil {
			return 0, fmt.Errorf("read OOM kill count: %w", err)
		}
		n, ok := keyed(string(content), "oom_kill")
		if !ok {
			return 0, fmt.Errorf("read OOM kill count: %s has no number oom_kill: %w", file, errors.ErrUnsupported)
		}
		return n, nil
	}
	return 0, fmt.Errorf("read OOM kill count: no %s found: %w", name, errors.ErrUnsupported)
}

// controller is the control group of the process in one controller's hierarchy.
type controller struct {
	v2 bool
	// dirs are the directories of the group and those above it, as far up as
	// they are mounted. nil: there is no such controller.
	dirs []string
}

// controller finds the control group of the process. On a system that has both
// versions a controller is in one of them only, and version 2 is mounted all
// the same, so version 1 is looked at first.
func (s System) controller(name string) (controller, error) {
	proc, err := procfs.NewFS(filepath.Join(s.Root, "proc"))
	if err != nil {
		return controller{}, err
	}
	self, err := proc.Self()
	if err != nil {
		return controller{}, err
	}
	groups, err := self.Cgroups()
	if errors.Is(err, fs.ErrNotExist) {
		return controller{}, nil // a kernel without control groups
	}
	if err != nil {
		return controller{}, err
	}
	mounts, err := proc.GetMounts()
	if err != nil {
		return controller{}, err
	}
	for _, g := range groups {
		if slices.Contains(g.Controllers, name) {
			if dirs := s.dirs(g.Path, mounts, func(m *procfs.MountInfo) bool {
				_, ok := m.SuperOptions[name]
				return m.FSType == "cgroup" && ok
			}); dirs != nil {
				return controller{dirs: dirs}, nil
			}
		}
	}
	for _, g := range groups {
		if g.HierarchyID == 0 {
			dirs := s.dirs(g.Path, mounts, func(m *procfs.MountInfo) bool { return m.FSType == "cgroup2" })
			return controller{v2: true, dirs: dirs}, nil
		}
	}
	return controller{}, nil
}

// dirs returns the directory of the control group and those above it. A mount
// shows the hierarchy from its root on. In a container with a cgroup namespace
// of its own both group and root are "/"; without one both are the same long
// path; in a privileged pod with the host's mount the root is "/" and the group
// is below it. When the group is not below the root (it is "/../.." for a
// process moved out of its namespace), the mount itself is the best there is.
func (s System) dirs(group string, mounts []*procfs.MountInfo, match func(*procfs.MountInfo) bool) []string {
	var top, rel string
	for _, m := range mounts {
		if !match(m) {
			continue
		}
		if below, ok := relative(m.Root, group); ok {
			top, rel = m.MountPoint, below
			break
		}
		if top == "" {
			top = m.MountPoint
		}
	}
	if top == "" {
		return nil
	}
	var dirs []string
	for {
		dirs = append(dirs, filepath.Join(s.Root, top, rel))
		if rel == "" || rel == "." || rel == "/" {
			return dirs
		}
		rel = path.Dir(rel)
	}
}

// relative returns what group is below root, "" when it is root itself.
func relative(root, group string) (string, bool) {
	if group == "/.." || strings.HasPrefix(group, "/../") {
		return "", false
	}
	rest, ok := strings.CutPrefix(group, strings.TrimSuffix(root, "/"))
	if !ok || (rest != "" && rest[0] != '/') {
		return "", false
	}
	return strings.Trim(rest, "/"), true
}

// keyed returns the number that follows a key in a file of lines "key number".
func keyed(content, key string) (int64, bool) {
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == key {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
