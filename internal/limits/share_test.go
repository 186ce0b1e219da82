package limits

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShareOfEachSlot(t *testing.T) {
	const gib = 1 << 30
	for _, tc := range []struct {
		name   string
		limits Limits
		slots  int
		mib    int64
		thread int
		err    error
	}{
		{"no memory limit", Limits{0, 8}, 2, 0, 4, nil},
		{"one slot", Limits{gib, 1}, 1, 716, 1, nil},
		{"four slots", Limits{8 * gib, 4}, 4, 1574, 1, nil},
		{"threads are rounded down", Limits{0, 7.9}, 2, 0, 3, nil},
		{"fewer CPUs than slots", Limits{0, 0.5}, 3, 0, 1, nil},
		{"smallest", Limits{209 * mib, 1}, 1, 64, 1, nil},
		{"too small", Limits{207 * mib, 1}, 1, 64, 1, ErrTooLittleMemory},
		{"smaller than the reserve", Limits{16 * mib, 1}, 4, 64, 1, ErrTooLittleMemory},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.limits.Share(tc.slots)
			if got.MemoryBytes/mib != tc.mib || got.Threads != tc.thread || !errors.Is(err, tc.err) {
				t.Errorf("got %d MiB, %d threads, %v", got.MemoryBytes/mib, got.Threads, err)
			}
		})
	}
	if _, err := (Limits{gib, 1}).Share(0); err == nil {
		t.Error("0 slots: no error")
	}
	// What the error says it takes is enough.
	_, err := Limits{100 * mib, 1}.Share(3)
	if want := "it takes 497 MiB"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	if _, err := (Limits{497 * mib, 1}).Share(3); err != nil {
		t.Error(err)
	}
}

func TestShareSetsEnvironment(t *testing.T) {
	s := Share{MemoryBytes: 1 << 30, Threads: 2}
	got := s.Env([]string{"HOME=/root", "MKL_NUM_THREADS=7", "OMP_NUM_THREADS="})
	want := []string{"OPENBLAS_NUM_THREADS=2", "BLIS_NUM_THREADS=2", "R_MAX_VSIZE=1073741824"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := s.Env([]string{"R_MAX_VSIZE=2Gb"}); len(got) != 4 {
		t.Errorf("the user's R_MAX_VSIZE: got %q", got)
	}
	if got := (Share{Threads: 1}).Env(nil); len(got) != 4 {
		t.Errorf("no memory limit: got %q", got)
	}
}

// TestRKeepsToTheShare: a task that is too large fails with R's own error, and
// R goes on; also at the smallest limit, where R must not fall back to none.
func TestRKeepsToTheShare(t *testing.T) {
	for _, memory := range []int64{MinMemory, 512 * mib} {
		cmd := exec.Command("Rscript",
			"-e", `cat("limit", mem.maxVSize(), "\n")`,
			"-e", `cat(tryCatch(numeric(1e9), error = conditionMessage), "\n")`,
			"-e", `cat("alive", length(numeric(1e6)), Sys.getenv("OMP_NUM_THREADS"), "\n")`)
		cmd.Env = append(cmd.Environ(), Share{MemoryBytes: memory, Threads: 3}.Env(nil)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		// The error's words are another R version's beyond the first two.
		want := fmt.Sprintf(`^limit %d \nvector memory .*\nalive 1000000 3 \n$`, memory/mib)
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("got %q, want %q", out, want)
		}
	}
}
