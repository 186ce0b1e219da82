package pool

import (
	"slices"
	"testing"
)

func TestFree(t *testing.T) {
	t.Parallel()
	var f free
	slots := make([]*slot, 5)
	for i := range slots {
		slots[i] = new(slot)
		f.put(slots[i])
	}
	expect := func(wanted ...*slot) {
		t.Helper()
		if got := slices.Collect(f.all()); !slices.Equal(got, wanted) || f.size() != len(wanted) {
			t.Fatalf("%d are there, of size %d, want %d or others", len(got), f.size(), len(wanted))
		}
	}
	expect(slots...)
	f.remove(slots[2])
	f.remove(slots[2])
	f.remove(new(slot))
	expect(slots[0], slots[1], slots[3], slots[4])
	f.remove(slots[0])
	f.put(slots[2])
	expect(slots[1], slots[3], slots[4], slots[2])
	for s := range f.all() { // each leaves while it is looked at
		f.remove(s)
	}
	expect()
}
