// Package journal keeps streams of bytes until they are forgotten or read again: a
// bounded amount of each in memory, and what is over that in files that nobody else
// sees, within one budget for all.
package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrFull means that the budget has no room for more.
var ErrFull = errors.New("the journals' budget is spent")

const (
	firstChunk = 4 << 10
	mostChunk  = 256 << 10
)

// Limits are in bytes.
type Limits struct {
	Each   int64 // in memory, of one journal
	Memory int64 // in memory, of all journals
	Disk   int64 // in files, of all journals
}

// Budget is what all journals share. It is safe for concurrent use.
type Budget struct {
	dir    string
	limits Limits

	mu           sync.Mutex
	memory, disk int64
}

// NewBudget makes a budget whose files are in dir, os.TempDir() if that is empty.
// They are deleted as soon as they are open.
func NewBudget(dir string, limits Limits) *Budget {
	return &Budget{dir: dir, limits: limits}
}

// Register registers the metrics of what all journals hold.
func (b *Budget) Register(register prometheus.Registerer) {
	for where, used := range map[string]func() int64{
		"memory": func() int64 { memory, _ := b.Used(); return memory },
		"disk":   func() int64 { _, disk := b.Used(); return disk },
	} {
		register.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "rendezvous_journal_bytes",
			Help:        "Bytes of calls that are kept to be sent again when a worker is lost, and of answers that R does not read yet, by where they are.",
			ConstLabels: prometheus.Labels{"where": where},
		}, func() float64 { return float64(used()) }))
	}
}

// Used says how many bytes all journals have in memory and on disk.
func (b *Budget) Used() (memory, disk int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory, b.disk
}

// take reserves n bytes of what used counts, up to limit.
func (b *Budget) take(used *int64, n, limit int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if *used+n > limit {
		return false
	}
	*used += n
	return true
}

func (b *Budget) give(memory, disk int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.memory -= memory
	b.disk -= disk
}

// Journal is one stream of bytes. Its zero value is not ready: New makes one. It is
// not safe for concurrent use.
type Journal struct {
	budget *Budget
	free   int64
	chunks [][]byte
	memory int64 // capacity of the chunks
	taken  int64 // of that, from the budget
	size   int64
	file   *os.File // what came after the chunks, nil for nothing
	disk   int64
}

// New makes an empty journal. Its first free bytes are kept in memory whatever the
// budget, and are none of it.
func New(budget *Budget, free int64) *Journal { return &Journal{budget: budget, free: free} }

// Size is how many bytes the journal holds.
func (j *Journal) Size() int64 { return j.size }

// Append adds a copy of p at the end. After an error, which wraps ErrFull or says
// what is wrong with the file, the journal holds no more of p than its Size tells.
func (j *Journal) Append(p []byte) error {
	for len(p) > 0 && j.file == nil {
		last := len(j.chunks) - 1
		if last < 0 || len(j.chunks[last]) == cap(j.chunks[last]) {
			if !j.grow() {
				break
			}
			last++
		}
		chunk := j.chunks[last]
		n := min(len(p), cap(chunk)-len(chunk))
		j.chunks[last] = append(chunk, p[:n]...)
		j.size += int64(n)
		p = p[n:]
	}
	if len(p) == 0 {
		return nil
	}
	return j.spill(p)
}

// grow adds a chunk, if the limits allow it.
func (j *Journal) grow() bool {
	n := int64(firstChunk)
	if len(j.chunks) > 0 {
		n = min(2*int64(cap(j.chunks[len(j.chunks)-1])), mostChunk)
	}
	if j.memory+n > j.free {
		if j.memory+n > j.budget.limits.Each || !j.budget.take(&j.budget.memory, n, j.budget.limits.Memory) {
			return false
		}
		j.taken += n
	}
	j.memory += n
	j.chunks = append(j.chunks, make([]byte, 0, n))
	return true
}

// spill adds p to the file, or none of it.
func (j *Journal) spill(p []byte) error {
	n := int64(len(p))
	if !j.budget.take(&j.budget.disk, n, j.budget.limits.Disk) {
		return fmt.Errorf("%w: %d bytes in memory and %d on disk are allowed", ErrFull, j.budget.limits.Memory, j.budget.limits.Disk)
	}
	if err := j.write(p); err != nil {
		j.budget.give(0, n)
		if j.disk == 0 {
			j.closeFile() // a journal that holds nothing need not be reset
		}
		return fmt.Errorf("journal: %w", err)
	}
	j.disk += n
	j.size += n
	return nil
}

func (j *Journal) write(p []byte) error {
	if j.file == nil {
		file, err := os.CreateTemp(j.budget.dir, "journal-")
		if err != nil {
			return err
		}
		j.file = file
		// Nothing of it is left when this process dies.
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
	}
	_, err := j.file.WriteAt(p, j.disk)
	return err
}

// Reader reads what the journal holds now, from the start. It is good until the
// journal is reset.
func (j *Journal) Reader() io.Reader {
	readers := make([]io.Reader, 0, len(j.chunks)+1)
	for _, chunk := range j.chunks {
		readers = append(readers, bytes.NewReader(chunk))
	}
	if j.file != nil {
		readers = append(readers, io.NewSectionReader(j.file, 0, j.disk))
	}
	return io.MultiReader(readers...)
}

// Reset forgets everything and gives back what it took of the budget.
func (j *Journal) Reset() {
	j.budget.give(j.taken, j.disk)
	j.closeFile()
	*j = Journal{budget: j.budget, free: j.free}
}

func (j *Journal) closeFile() {
	if j.file != nil {
		j.file.Close() // it has no name any more: nothing is lost that is wanted
		j.file = nil
	}
}
