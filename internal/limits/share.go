package limits

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	mib = 1 << 20
	// agentReserve is for the agent: both of its processes stay below 40 MB
	// together, the rest is for what the kernel charges to the container
	// besides, page tables and socket buffers.
	agentReserve = 64 * mib
	// workerReserve is for each R outside of its vector heap: an idle worker
	// with its six default packages has 50 MB resident (R 4.2).
	workerReserve = 64 * mib
	// vectorPercent is how much of the rest R may use for vectors. R's limit
	// does not count the cells of lists, code and environments, nor what
	// compiled code allocates itself. Measured with R 4.2: with six larger
	// packages attached and a vector limit of 512 MB used up, R had 707 MB
	// resident, which is 64 MB and 80%.
	vectorPercent = 80
	// MinMemory is the smallest limit that R takes, in bytes: its initial
	// vector heap. It ignores a smaller one without a word.
	MinMemory = 64 * mib
)

// ErrTooLittleMemory is wrapped by the error of [Limits.Share] for a memory
// limit that R cannot work within.
var ErrTooLittleMemory = errors.New("too little memory")

// Share is what one worker may use.
type Share struct {
	// MemoryBytes is the limit of R's vector heap. 0: no limit.
	MemoryBytes int64
	// Threads is how many threads a numerical library should use, 1 or more.
	Threads int
}

// Share divides the limits by a number of slots, 1 or more. When there is too
// little memory for so many the error says how much it takes, and wraps
// [ErrTooLittleMemory]; the Share is usable all the same, with [MinMemory].
func (l Limits) Share(slots int) (Share, error) {
	if slots < 1 {
		return Share{}, fmt.Errorf("share limits: %d slots, must be 1 or more", slots)
	}
	// Rounded down: two workers of two threads on three CPUs would stop each
	// other at every common barrier of their threads.
	share := Share{Threads: max(1, int(l.CPUs/float64(slots)))}
	if l.MemoryBytes == 0 {
		return share, nil
	}
	each := (l.MemoryBytes - agentReserve) / int64(slots)
	share.MemoryBytes = (each - workerReserve) / 100 * vectorPercent
	if share.MemoryBytes < MinMemory {
		share.MemoryBytes = MinMemory
		// One page more, for what the divisions round down.
		need := agentReserve + int64(slots)*(workerReserve+MinMemory*100/vectorPercent+4096)
		return share, fmt.Errorf("share a memory limit of %d MiB between %d slots: %w: it takes %d MiB; raise the limit or use fewer slots",
			l.MemoryBytes/mib, slots, ErrTooLittleMemory, (need+mib-1)/mib)
	}
	return share, nil
}

// Env returns the environment variables, "NAME=value" each, that make R and
// the usual numerical libraries keep to the share. One that environ sets already
// is left out, so that the user's own value holds, even an empty one.
func (s Share) Env(environ []string) []string {
	threads := strconv.Itoa(s.Threads)
	vars := []string{
		"OMP_NUM_THREADS=" + threads,      // OpenMP: packages such as data.table
		"OPENBLAS_NUM_THREADS=" + threads, // the BLAS of Debian's R
		"MKL_NUM_THREADS=" + threads,
		"BLIS_NUM_THREADS=" + threads,
	}
	if s.MemoryBytes > 0 {
		// In bytes: R takes units too, but no fractions of them.
		vars = append(vars, "R_MAX_VSIZE="+strconv.FormatInt(s.MemoryBytes, 10))
	}
	set := make(map[string]bool, len(environ))
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		set[name] = true
	}
	free := vars[:0]
	for _, v := range vars {
		if name, _, _ := strings.Cut(v, "="); !set[name] {
			free = append(free, v)
		}
	}
	return free
}
