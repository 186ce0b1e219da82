package limits

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// unlimited is what counts as no memory limit. Version 1 has no word for it: a
// group without one shows the largest multiple of the page size that fits into
// 63 bits, which depends on the page size. No machine has an exabyte.
const unlimited = 1 << 60

// memoryLimit returns the smallest memory limit in bytes, 0 for none.
func (c controller) memoryLimit() (int64, error) {
	limit := int64(unlimited)
	for _, dir := range c.dirs {
		name := "memory.limit_in_bytes"
		if c.v2 {
			name = "memory.max"
		}
		n, err := readFile(filepath.Join(dir, name), parseBytes)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			limit = min(limit, n)
		}
	}
	if !c.v2 && len(c.dirs) > 0 {
		// A pod's limit may be set on its own group, above the container's,
		// and not be mounted; version 1 sums up the path in this number.
		n, err := readFile(filepath.Join(c.dirs[0], "memory.stat"), func(s string) (int64, error) {
			n, _ := keyed(s, "hierarchical_memory_limit")
			return n, nil
		})
		if err != nil {
			return 0, err
		}
		if n > 0 {
			limit = min(limit, n)
		}
	}
	if limit >= unlimited {
		return 0, nil
	}
	return limit, nil
}

// cpuQuota returns the smallest CPU quota in CPUs, 0 for none.
func (c controller) cpuQuota() (float64, error) {
	quota := math.Inf(1)
	for _, dir := range c.dirs {
		q, err := c.ownQuota(dir)
		if err != nil {
			return 0, err
		}
		if q > 0 {
			quota = min(quota, q)
		}
	}
	if math.IsInf(quota, 1) {
		return 0, nil
	}
	return quota, nil
}

// ownQuota returns the CPU quota of one group, 0 for none.
func (c controller) ownQuota(dir string) (float64, error) {
	if c.v2 {
		return readFile(filepath.Join(dir, "cpu.max"), parseCPUMax)
	}
	quota, err := readFile(filepath.Join(dir, "cpu.cfs_quota_us"), parseInt)
	if err != nil || quota <= 0 { // -1: none
		return 0, err
	}
	period, err := readFile(filepath.Join(dir, "cpu.cfs_period_us"), parseInt)
	if err != nil || period <= 0 {
		return 0, err
	}
	return float64(quota) / float64(period), nil
}

// readFile parses a file's content, and returns the zero value when there is no
// such file: the root group has no limits, nor has a group in which the
// controller is switched off.
func readFile[T any](name string, parse func(string) (T, error)) (T, error) {
	var zero T
	content, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return zero, nil
	}
	if err != nil {
		return zero, err
	}
	v, err := parse(strings.TrimSpace(string(content)))
	if err != nil {
		return zero, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func parseInt(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// parseBytes parses memory.max and memory.limit_in_bytes. A limit of 0 bytes
// cannot be that of a living process and is read as none.
func parseBytes(s string) (int64, error) {
	if s == "max" {
		return 0, nil
	}
	return parseInt(s)
}

// parseCPUMax parses cpu.max: "max 100000" or "50000 100000", in microseconds.
func parseCPUMax(s string) (float64, error) {
	fields := strings.Fields(s)
	if len(fields) == 0 || len(fields) > 2 {
		return 0, fmt.Errorf("%q is not a CPU quota and a period", s)
	}
	if fields[0] == "max" {
		return 0, nil
	}
	quota, err := parseInt(fields[0])
	if err != nil {
		return 0, err
	}
	period := int64(100_000) // the kernel's default
	if len(fields) == 2 {
		if period, err = parseInt(fields[1]); err != nil {
			return 0, err
		}
	}
	if quota <= 0 || period <= 0 {
		return 0, fmt.Errorf("%q is not a CPU quota and a period", s)
	}
	return float64(quota) / float64(period), nil
}
