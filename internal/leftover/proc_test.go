package leftover

import (
	"os"
	"testing"
)

func TestParseStat(t *testing.T) {
	const rest = " S 7 10 10 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 100 200 18446744073709551615 1 1"
	for _, tc := range []struct {
		text string
		want stat // zero: an error
	}{
		{"10 (R)" + rest, stat{"R", "S", 7, 4711}},
		{"10 (a) b (1 2) Z)" + rest + "\n", stat{"a) b (1 2) Z", "S", 7, 4711}},
		{"10 (R) S 7 10", stat{}},
		{"10 (R) S seven" + rest, stat{}},
		{"10 R" + rest, stat{}},
		{")(", stat{}},
		{"", stat{}},
	} {
		got, err := parseStat([]byte(tc.text))
		if got != tc.want || (err != nil) != (tc.want == stat{}) {
			t.Errorf("%q: got %+v, %v; want %+v", tc.text, got, err, tc.want)
		}
	}
}

func TestParseMark(t *testing.T) {
	for environment, want := range map[string]string{
		"":                                   "",
		"A=b\x00":                            "",
		"A=b\x00" + Variable + "=/w/1\x00C=": "/w/1",
		Variable + "=/w/1\x00":               "/w/1",
		Variable + "=/w/1":                   "/w/1",
		"A=" + Variable + "=/w/1\x00":        "",
		Variable + "2=/w/1\x00":              "",
	} {
		if got := parseMark([]byte(environment)); got != want {
			t.Errorf("%q: got %q, want %q", environment, got, want)
		}
	}
}

// Marks are read of those only of whom they are asked.
func TestMarksAreReadOnlyOfThoseAsked(t *testing.T) {
	tracker := newTracker(t)
	w := begin(t, tracker, "/one")
	pid := w.cmd.Process.Pid
	for since, want := range map[uint64]string{allMarks: "/one", tracker.self.start: "/one", noMarks: ""} {
		all, err := look(since)
		if err != nil {
			t.Fatal(err)
		}
		if p := all[pid]; p.mark != want || p.pid != pid || p.parent != os.Getpid() || p.start < tracker.self.start {
			t.Errorf("since %d: got %+v", since, p)
		}
	}
}

// BenchmarkEnd is the end of a worker that has left nothing: what the next one waits for.
func BenchmarkEnd(b *testing.B) {
	tracker, err := New(false)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := tracker.Start("/nobody's").End(); err != nil {
			b.Fatal(err)
		}
	}
}
