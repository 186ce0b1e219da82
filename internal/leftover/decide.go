package leftover

import "strings"

// identity tells a process from every other since boot.
type identity struct {
	pid   int
	start uint64 // in the kernel's ticks since boot
}

// process is a process as it was when it was read.
type process struct {
	identity
	parent int
	// mark is the value of Variable in the environment that the process was started with.
	// It is "" without one, for processes that have overwritten it (see the package's doc),
	// for those of other users that do not show theirs, and for those of which nobody asked.
	mark string
}

type processes map[int]process

// life is what is known of one worker.
type life struct {
	mark     string
	began    uint64 // in the kernel's ticks since boot, as a process's start is
	warm     uint64 // when it had started; 0 before
	used     bool
	ended    bool
	children []identity // seen before it ended
}

// memory is what is known without the processes.
type memory struct {
	self   identity // this program
	owned  bool     // see Tracker.Owns
	ended  []life   // the workers whose leftovers are asked for
	living []life
}

// leftovers are the processes that ended workers have left. They need the marks of the
// processes that are younger than this program: nothing else is a worker's.
func leftovers(all processes, m memory) map[int]process {
	found := make(map[int]process)
	marks := make(map[string]bool)
	for _, w := range m.ended {
		marks[w.mark] = true
		for _, child := range w.children {
			if p, there := all[child.pid]; there && p.identity == child {
				found[p.pid] = p
			}
		}
	}
	for pid, p := range all {
		if p.start < m.self.start {
			continue
		}
		if marks[p.mark] || m.owned && p.parent == 1 && p.identity != m.self && m.unclaimed(all, p) {
			found[pid] = p
		}
	}
	for pid := range found {
		all.addDescendants(found, pid)
	}
	return found
}

// unclaimed reports whether no living worker can have started the orphan p.
func (m memory) unclaimed(all processes, p process) bool {
	tree := map[int]process{p.pid: p}
	all.addDescendants(tree, p.pid)
	for _, w := range m.living {
		for _, member := range tree {
			if member.mark == w.mark {
				return false
			}
		}
		// Ticks are 10 ms: the same tick is before and after.
		if w.began <= p.start && (w.used || w.warm == 0 || p.start <= w.warm) {
			return false
		}
	}
	return true
}

// marked are the processes whose mark begins with prefix.
func (all processes) marked(prefix string) map[int]process {
	found := make(map[int]process)
	for pid, p := range all {
		if strings.HasPrefix(p.mark, prefix) {
			found[pid] = p
		}
	}
	return found
}

// addDescendants adds the descendants of pid to found.
func (all processes) addDescendants(found map[int]process, pid int) {
	for child, p := range all {
		if p.parent == pid {
			if _, known := found[child]; !known {
				found[child] = p
				all.addDescendants(found, child)
			}
		}
	}
}
