package journal_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/journal"
)

// What was appended is read again, however it was cut, in memory and on disk.
func TestAppendedIsReadAgain(t *testing.T) {
	for name, limits := range map[string]journal.Limits{
		"in memory": {Each: 8 << 20, Memory: 8 << 20},
		"on disk":   {Disk: 8 << 20},
		"on both":   {Each: 100 << 10, Memory: 8 << 20, Disk: 8 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			budget := journal.NewBudget(dir, limits)
			j := journal.New(budget, 0)
			random := rand.New(rand.NewPCG(1, 2))
			for range 2 { // the second time after a reset
				var want []byte
				for range 100 {
					p := make([]byte, random.IntN(20_000))
					for i := range p {
						p[i] = byte(random.Uint32())
					}
					if err := j.Append(p); err != nil {
						t.Fatal(err)
					}
					want = append(want, p...)
				}
				got, err := io.ReadAll(j.Reader())
				if err != nil || !bytes.Equal(got, want) || j.Size() != int64(len(want)) {
					t.Fatalf("read %d of %d bytes, or others; size %d, error %v", len(got), len(want), j.Size(), err)
				}
				memory, disk := budget.Used()
				if memory > limits.Each || (disk > 0) != (limits.Disk > 0) || memory+disk < int64(len(want)) {
					t.Errorf("%d bytes in memory, %d on disk", memory, disk)
				}
				if files, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(files) > 0 {
					t.Errorf("files: %v, %v", files, err)
				}
				j.Reset()
				if memory, disk := budget.Used(); memory != 0 || disk != 0 || j.Size() != 0 {
					t.Errorf("after the reset: %d in memory, %d on disk, size %d", memory, disk, j.Size())
				}
			}
		})
	}
}

// The budget is one for all journals, and comes back.
func TestJournalsShareABudget(t *testing.T) {
	budget := journal.NewBudget(t.TempDir(), journal.Limits{Each: 4 << 10, Memory: 4 << 10, Disk: 1000})
	one, two := journal.New(budget, 0), journal.New(budget, 0)
	if err := one.Append(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	if err := two.Append(make([]byte, 97)); !errors.Is(err, journal.ErrFull) {
		t.Errorf("one byte too many: %v", err)
	}
	one.Reset()
	two.Reset()
	if err := two.Append(make([]byte, 97)); err != nil {
		t.Error(err)
	}
	two.Reset()
	if memory, disk := budget.Used(); memory != 0 || disk != 0 {
		t.Errorf("%d in memory and %d on disk are left", memory, disk)
	}
}

// What is free is kept when the budget is spent, and is none of it.
func TestFreeBytesDoNotCount(t *testing.T) {
	budget := journal.NewBudget(t.TempDir(), journal.Limits{})
	j := journal.New(budget, 12<<10)
	for range 2 { // the second time after a reset
		if err := j.Append(make([]byte, 12<<10)); err != nil {
			t.Fatal(err)
		}
		if memory, disk := budget.Used(); memory != 0 || disk != 0 {
			t.Errorf("%d bytes in memory and %d on disk are of the budget", memory, disk)
		}
		if err := j.Append([]byte{1}); !errors.Is(err, journal.ErrFull) {
			t.Errorf("one byte too many: %v", err)
		}
		if kept, err := io.ReadAll(j.Reader()); err != nil || int64(len(kept)) != j.Size() {
			t.Errorf("after that it holds %d bytes and says %d, %v", len(kept), j.Size(), err)
		}
		j.Reset()
		if memory, disk := budget.Used(); memory != 0 || disk != 0 {
			t.Errorf("after the reset: %d bytes in memory and %d on disk are of the budget", memory, disk)
		}
	}
}

// A directory that is no place for files is named.
func TestNoDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	j := journal.New(journal.NewBudget(dir, journal.Limits{Disk: 1000}), 0)
	err := j.Append([]byte("x"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v", err)
	}
	j.Reset()
}

// A full disk is an error that leaves nothing open, and that passes.
func TestFullDisk(t *testing.T) {
	j := journal.New(journal.NewBudget(t.TempDir(), journal.Limits{Disk: 1 << 20}), 0)
	defer j.Reset()
	before := openFiles(t)
	signal.Ignore(syscall.SIGXFSZ) // else it ends the process
	defer signal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	err := j.Append([]byte("lost"))
	if failed := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); failed != nil {
		t.Fatal(failed)
	}
	if !errors.Is(err, syscall.EFBIG) || j.Size() != 0 {
		t.Errorf("Append: %v, size %d", err, j.Size())
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
	if err := j.Append([]byte("kept")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(j.Reader()); err != nil || string(got) != "kept" {
		t.Errorf("read %q, %v", got, err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
