package limits

import (
	"runtime/debug"
	"testing"
)

func TestHeapIsBoundedByTheContainer(t *testing.T) {
	before := debug.SetMemoryLimit(-1) // which changes nothing
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	const gib = 1 << 30
	granting := func(memory string) System {
		return System{Root: root(t, "0::/", v2Mount, map[string]string{"sys/fs/cgroup/memory.max": memory})}
	}
	for _, tc := range []struct {
		memory, environment string
		want                int64
	}{
		{"max", "", before},
		{"10737418240", "5GiB", before},
		{"10737418240", "", 8 * gib},
	} {
		t.Setenv("GOMEMLIMIT", tc.environment)
		if err := granting(tc.memory).boundHeap(); err != nil {
			t.Error(err)
		}
		if got := debug.SetMemoryLimit(-1); got != tc.want {
			t.Errorf("granted %s, GOMEMLIMIT=%q: the limit is %d, want %d", tc.memory, tc.environment, got, tc.want)
		}
	}
	t.Setenv("GOMEMLIMIT", "")
	if err := granting("much").boundHeap(); err == nil {
		t.Error("no error for a limit that is no number")
	}
}
