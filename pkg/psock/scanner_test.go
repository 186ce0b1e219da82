package psock

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// ended is one message that a scanner found.
type ended struct {
	Label string
	End   int64
	Message
}

// fromR runs testdata/messages.R and returns its stream and what R says is in
// it.
func fromR(t testing.TB) ([]byte, []ended) {
	t.Helper()
	dir := t.TempDir()
	stream, index := filepath.Join(dir, "stream"), filepath.Join(dir, "index")
	cmd := exec.Command("Rscript", "--vanilla", "testdata/messages.R", stream, index)
	// In a C locale R would write "<U+00FC>" instead of the letter.
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("Rscript: %v\n%s", err, out)
	}
	data, err := os.ReadFile(stream)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	var want []ended
	start := int64(0)
	for line := range strings.Lines(string(text)) {
		e := parseIndex(t, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
		e.Bytes = e.End - start
		start = e.End
		want = append(want, e)
	}
	if len(want) < 200 || start != int64(len(data)) {
		t.Fatalf("%d messages end at %d of %d bytes", len(want), start, len(data))
	}
	return data, want
}

const futureResult = "FutureResult"

// newScanner makes one that looks for a future's results.
func newScanner() *Scanner { return &Scanner{Classes: []string{"FutureLaunchError", futureResult}} }

func parseIndex(t testing.TB, f []string) ended {
	t.Helper()
	if len(f) != 10 {
		t.Fatalf("index line of %d fields: %q", len(f), f)
	}
	e := ended{Label: f[0]}
	e.End, _ = strconv.ParseInt(f[1], 10, 64)
	for k := KindUnknown; k <= KindValue; k++ {
		if k.String() == f[3] {
			e.Kind = k
		}
	}
	e.Tagged = f[7] == "TRUE"
	if f[8] == "TRUE" {
		e.Class = futureResult
	}
	seconds, _ := strconv.ParseFloat(f[5], 64)
	e.XDR, e.Success, e.Final, e.Text = f[2] == "TRUE", f[4] == "TRUE", f[6] == "TRUE", f[9]
	e.Elapsed = time.Duration(math.Round(seconds * float64(time.Second)))
	return e
}

// scan cuts data as next says and returns the messages found in it. Like a
// relay that can splice, it reports to Advance what Skip allows when useSkip.
func scan(t testing.TB, s *Scanner, data []byte, useSkip bool, next func() int) []ended {
	t.Helper()
	var found []ended
	for at := 0; at < len(data); {
		if n := s.Skip(); useSkip && n > 0 && s.Opaque() == nil {
			n = min(n, int64(next()), int64(len(data)-at))
			s.Advance(n)
			at += int(n)
			continue
		}
		p := data[at:min(at+next(), len(data))]
		for len(p) > 0 {
			n, done := s.Scan(p)
			if n <= 0 || n > len(p) || n < len(p) && !done {
				t.Fatalf("at %d: Scan of %d bytes returned %d, %v", at, len(p), n, done)
			}
			at += n
			p = p[n:]
			if s.Opaque() == nil && s.InMessage() == done {
				t.Fatalf("at %d: done is %v and InMessage %v", at, done, s.InMessage())
			}
			if done {
				found = append(found, ended{End: int64(at), Message: s.Message()})
				checkState(t, s, 1<<10)
			}
		}
		checkState(t, s, 64<<10)
	}
	return found
}

func checkState(t testing.TB, s *Scanner, limit uintptr) {
	if size := unsafe.Sizeof(*s) + uintptr(cap(s.stack))*unsafe.Sizeof(frame(0)); size >= limit {
		t.Fatalf("state of %d bytes, want less than %d", size, limit)
	}
}

func always(n int) func() int { return func() int { return n } }

func randomly(limit int) func() int {
	r := rand.New(rand.NewPCG(1, uint64(limit)))
	return func() int { return 1 + r.IntN(limit) }
}

// TestScannerFollowsR compares with R, which wrote the stream and read back what
// it wrote.
func TestScannerFollowsR(t *testing.T) {
	data, want := fromR(t)
	cuts := map[string]func() int{
		"1": always(1), "2": always(2), "3": always(3), "7": always(7), "8": always(8), "1460": always(1460),
		"64K": always(64 << 10), "random20": randomly(20), "random4096": randomly(4096), "whole": always(len(data)),
	}
	for name, next := range cuts {
		for _, useSkip := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/skip=%v", name, useSkip), func(t *testing.T) {
				s := *newScanner()
				got := scan(t, &s, data, useSkip, next)
				if err := s.Opaque(); err != nil {
					t.Errorf("after %q: %v", want[max(len(got)-1, 0)].Label, err)
				}
				for i := range got {
					if i < len(want) {
						got[i].Label = want[i].Label
					}
					if i < len(want) && got[i] == want[i] {
						continue
					}
					t.Fatalf("message %d: %s", i, cmp.Diff(want[min(i, len(want)-1)], got[i]))
				}
				if len(got) != len(want) {
					t.Errorf("%d messages, want %d; the next is %q", len(got), len(want), want[len(got)].Label)
				}
			})
		}
	}
}

// TestScannerState follows what an idle and a busy connection see of a message.
func TestScannerState(t *testing.T) {
	s := *newScanner()
	checkState(t, &s, 512)
	if s.InMessage() || s.Message() != (Message{}) || s.Skip() != 0 {
		t.Errorf("before the first byte: %+v", s.Message())
	}
	data := AppendError(nil, "no", false)
	for i := range len(data) - 1 {
		if n, done := s.Scan(data[i : i+1]); n != 1 || done || !s.InMessage() || s.Message().Bytes != int64(i+1) {
			t.Fatalf("byte %d: %d, %v, %+v", i, n, done, s.Message())
		}
		if known := s.Message().Kind == KindValue; known != (i+1 >= 43) {
			t.Fatalf("kind known after %d bytes: %v", i+1, known)
		}
	}
	if _, done := s.Scan(data[len(data)-1:]); !done || s.InMessage() {
		t.Errorf("the last byte ends the message: %v", done)
	}
	if n, done := s.Scan(nil); n != 0 || done || s.Message().Kind != KindValue {
		t.Errorf("an empty chunk changes nothing: %d, %v, %+v", n, done, s.Message())
	}
	if _, done := s.Scan([]byte("B")); done || !s.InMessage() || s.Message() != (Message{Bytes: 1}) {
		t.Errorf("the first byte of the next message: %v, %+v", done, s.Message())
	}
}

// TestScannerAllocates nothing in the long run.
func TestScannerAllocates(t *testing.T) {
	data := AppendError(nil, "no", true)
	s := *newScanner()
	if n := testing.AllocsPerRun(100, func() { s.Scan(data) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}
