package psock

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzScanner scans what may be anything. Its seeds are objects that R wrote
// (testdata/messages.R), alone and with a message after them.
func FuzzScanner(f *testing.F) {
	files, err := filepath.Glob("testdata/scanner/*.bin")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(AppendError(AppendError(nil, "one", true), "two", false))
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := *newScanner()
		want := scan(t, &whole, data, false, always(max(len(data), 1)))
		checkAccount(t, &whole, want, data)
		for i, next := range []func() int{always(1), always(3), always(17), randomly(40), always(9)} {
			s := *newScanner()
			got := scan(t, &s, data, i >= 3, next)
			checkAccount(t, &s, got, data)
			if len(got) != len(want) {
				t.Fatalf("%d messages, in one piece %d", len(got), len(want))
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("message %d: %+v, in one piece %+v", i, got[i], want[i])
				}
			}
			if s.Message() != whole.Message() || s.InMessage() != whole.InMessage() {
				t.Fatalf("at the end: %+v, in one piece %+v", s.Message(), whole.Message())
			}
			if a, b := s.Opaque(), whole.Opaque(); (a == nil) != (b == nil) || a != nil && a.Error() != b.Error() {
				t.Fatalf("%v, in one piece %v", a, b)
			}
		}
	})
}

// checkAccount compares the sizes of messages with what was scanned.
func checkAccount(t *testing.T, s *Scanner, found []ended, data []byte) {
	t.Helper()
	total := int64(0)
	for _, m := range found {
		total += m.Bytes
		if total != m.End {
			t.Fatalf("a message that ends at %d: sizes add up to %d", m.End, total)
		}
	}
	if s.InMessage() {
		total += s.Message().Bytes
	}
	if size := int64(len(data)); total > size || s.Opaque() == nil && total != size {
		t.Fatalf("%d bytes of %d accounted for", total, size)
	}
}
