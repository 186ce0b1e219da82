package limits

import (
	"fmt"
	"os"
	"runtime/debug"
)

// BoundHeap has the Go runtime collect garbage more often when this program comes near
// the memory that the container grants, where it would else let the heap double first.
// A fifth is left for what is no heap: the kernel's share of ten thousand connections,
// and the program itself. The environment variable GOMEMLIMIT goes first.
func BoundHeap() error { return System{Root: "/"}.boundHeap() }

func (s System) boundHeap() error {
	if os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	limits, err := s.Limits()
	if err != nil {
		return fmt.Errorf("bound the heap: %w", err)
	}
	if limits.MemoryBytes > 0 {
		debug.SetMemoryLimit(limits.MemoryBytes / 5 * 4)
	}
	return nil
}
