package leftover

import (
	"maps"
	"slices"
	"testing"
)

// self is this program, which started at 100.
var self = identity{pid: 2, start: 100}

// family makes processes; those of the container and this program are there already.
func family(more ...process) processes {
	all := processes{
		1: {identity: identity{1, 1}},
		2: {identity: self, parent: 1, mark: "/elsewhere"}, // a worker of another agent has started it
	}
	for _, p := range more {
		all[p.pid] = p
	}
	return all
}

func proc(pid, parent int, start uint64, mark string) process {
	return process{identity: identity{pid, start}, parent: parent, mark: mark}
}

func TestWhatIsLeftOver(t *testing.T) {
	a := life{mark: "/a", began: 110, warm: 120, used: true, ended: true}
	remembers := func(children ...identity) life {
		w := a
		w.children = children
		return w
	}
	living := life{mark: "/b", began: 130, warm: 140}
	for _, tc := range []struct {
		name string
		all  processes
		m    memory
		want []int
	}{
		{"nothing", family(proc(10, 2, 200, "/b")), memory{ended: []life{a}, living: []life{living}}, nil},
		{"by its mark", family(proc(10, 1, 150, "/a"), proc(11, 1, 150, "/b"), proc(12, 1, 150, "")), memory{ended: []life{a}, living: []life{living}}, []int{10}},
		{"of several", family(proc(10, 1, 150, "/a"), proc(11, 1, 150, "/c")), memory{ended: []life{a, {mark: "/c"}}}, []int{10, 11}},
		{"with its descendants", family(proc(10, 1, 150, "/a"), proc(11, 10, 150, ""), proc(12, 11, 150, ""), proc(13, 1, 150, "")), memory{ended: []life{a}}, []int{10, 11, 12}},
		{"by its parents, which have ended", family(proc(10, 1, 150, ""), proc(11, 10, 160, "")), memory{ended: []life{remembers(identity{10, 150})}}, []int{10, 11}},
		{"another has the number of a child", family(proc(10, 1, 151, "")), memory{ended: []life{remembers(identity{10, 150})}}, nil},
		{"older than the program", family(proc(10, 1, 99, "/a")), memory{ended: []life{a}, owned: true}, nil},
		{"an orphan, in a container of somebody else's", family(proc(10, 1, 150, "")), memory{ended: []life{a}}, nil},
		{"an orphan, in our own", family(proc(10, 1, 150, ""), proc(11, 10, 150, "")), memory{ended: []life{a}, owned: true}, []int{10, 11}},
		{"no orphan, in our own", family(proc(10, 2, 150, ""), proc(11, 10, 150, "")), memory{ended: []life{a}, owned: true}, nil},
		{"an orphan of a living worker's", family(proc(10, 1, 150, "/b")), memory{ended: []life{a}, living: []life{living}, owned: true}, nil},
		{"a living worker's process below an orphan", family(proc(10, 1, 150, ""), proc(11, 10, 150, "/b")), memory{ended: []life{a}, living: []life{living}, owned: true}, nil},
	} {
		tc.m.self = self
		found := leftovers(tc.all, tc.m)
		if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
		for pid, p := range found {
			if p != tc.all[pid] {
				t.Errorf("%s: got %+v under the number %d", tc.name, p, pid)
			}
		}
	}
}

// Who can have started an orphan that says nothing of itself: a worker that was starting or
// in use when it began.
func TestUnclaimed(t *testing.T) {
	const began = 210
	for _, tc := range []struct {
		name string
		w    life
		want bool
	}{
		{"started later", life{began: began + 1}, true},
		{"starting", life{began: began - 1}, false},
		{"starting in the same tick", life{began: began}, false},
		{"was starting", life{began: began - 1, warm: began}, false},
		{"was warm", life{began: began - 5, warm: began - 1}, true},
		{"in use", life{began: began - 5, warm: began - 1, used: true}, false},
		{"in use, began later", life{began: began + 1, warm: began + 2, used: true}, true},
	} {
		tc.w.mark = "/w"
		found := leftovers(family(proc(10, 1, began, "")), memory{self: self, owned: true, living: []life{tc.w}})
		if got := len(found) == 1; got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestMarkedByPrefix(t *testing.T) {
	all := processes{10: proc(10, 1, 5, "/a/1"), 11: proc(11, 1, 500, "/a/2"), 12: proc(12, 1, 5, "/ab/1"), 13: proc(13, 1, 5, "")}
	if got := slices.Sorted(maps.Keys(all.marked("/a/"))); !slices.Equal(got, []int{10, 11}) {
		t.Errorf("got %v", got)
	}
}

// A worker that has started since the processes were read has started none of them, and is
// not forgotten for it.
func TestRemembered(t *testing.T) {
	tracker := newTracker(t)
	one, two := tracker.Start("/one"), tracker.Start("/two")
	one.life.ended, two.life.ended = true, true
	swept := tracker.ended()
	tracker.Start("/late")
	// It ends while the others are swept, and has its own sweep.
	ending := tracker.Start("/ending")
	ending.life.ended = true
	m := tracker.remembered(swept)
	if len(m.ended) != 2 || len(m.living) != 1 || m.living[0].mark != "/late" || m.self.pid == 0 {
		t.Errorf("got %+v", m)
	}
}
