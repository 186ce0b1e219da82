package psock

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func readLines(in []byte, oneByOne bool) (texts []string, last []string) {
	o := &output{emit: func(l Line) { texts = append(texts, l.Text) }}
	if oneByOne {
		o.read(iotest.OneByteReader(bytes.NewReader(in)), false)
	} else {
		o.read(bytes.NewReader(in), false)
	}
	return texts, o.lastLines()
}

func TestOutputLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	euros := strings.Repeat("€", maxLine)
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"lines", "one\ntwo\n", []string{"one", "two"}},
		{"empty lines", "\n\nx\n", []string{"", "", "x"}},
		{"partial last line", "one\ntwo", []string{"one", "two"}},
		{"carriage return", "one\r\n", []string{"one"}},
		{"invalid UTF-8", "caf\xe9 \xff\xfe!\n", []string{"caf\uFFFD \uFFFD!"}},
		{"longest", long[1:] + "\nnext\n", []string{long[1:], "next"}},
		{"too long", long + "yyy\nnext\n", []string{long[len(cutMark):] + cutMark, "next"}},
		{"too long by far", long + long + long + "\nnext", []string{long[len(cutMark):] + cutMark, "next"}},
		{"too long without end", long + "y", []string{long[len(cutMark):] + cutMark}},
		{"cut between characters", euros + "\n", []string{euros[:(maxLine-len(cutMark))/3*3] + cutMark}},
	} {
		for _, oneByOne := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", tc.name, oneByOne), func(t *testing.T) {
				got, _ := readLines([]byte(tc.in), oneByOne)
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("lines (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestOutputLastLines(t *testing.T) {
	var in strings.Builder
	for i := range 30 {
		fmt.Fprintf(&in, "line %d\n\n \n", i)
	}
	in.WriteString(strings.Repeat("é", lastLineLen))
	_, last := readLines([]byte(in.String()), false)
	if len(last) != lastLines || last[0] != "line 21" || last[9] != strings.Repeat("é", lastLineLen/2) {
		t.Errorf("got %q", last)
	}
}

func FuzzOutput(f *testing.F) {
	f.Add([]byte("one\ntwo"))
	f.Add([]byte("\xff\xfe\r\n\x00"))
	f.Add(bytes.Repeat([]byte("a\xff"), maxLine))
	f.Fuzz(func(t *testing.T, in []byte) {
		texts, last := readLines(in, false)
		want := bytes.Count(in, []byte("\n"))
		if len(in) > 0 && in[len(in)-1] != '\n' {
			want++
		}
		if len(texts) != want {
			t.Errorf("%d lines, want %d", len(texts), want)
		}
		for _, text := range texts {
			if len(text) > maxLine || !utf8.ValidString(text) || strings.Contains(text, "\n") {
				t.Errorf("bad line %q", text)
			}
		}
		if len(last) > lastLines {
			t.Errorf("%d last lines", len(last))
		}
	})
}

func TestExitString(t *testing.T) {
	for _, tc := range []struct {
		want string
		exit Exit
	}{
		{"exit status 1: Error: cannot allocate vector", Exit{Code: 1, LastLines: []string{"Error: first", "Error: cannot allocate vector", "Execution halted"}}},
		{"exit status 1: Error in f(x) : the rest of it", Exit{Code: 1, LastLines: []string{"Error in f(x) : ", "  the rest of it", "Calls: f", "Execution halted"}}},
		{"exit status 2: Fatal error: cannot open file", Exit{Code: 2, LastLines: []string{"Fatal error: cannot open file"}}},
		{"killed by " + signalName(11) + ": *** caught segfault ***", Exit{Code: -1, Signal: 11, LastLines: []string{" *** caught segfault ***", "Traceback:"}}},
		{"exit status 1: " + strings.Repeat("x", maxReason) + "...", Exit{Code: 1, LastLines: []string{strings.Repeat("x", lastLineLen)}}},
	} {
		if got := tc.exit.String(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}
