package scratch

import (
	"fmt"
	"strings"

	"github.com/prometheus/procfs"
)

// unescape undoes what the kernel does to the paths in /proc/self/mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountPoints are the paths at which something is mounted. A device number does not tell:
// volumes of a pod are often folders of one file system.
func mountPoints() (map[string]bool, error) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	points := make(map[string]bool, len(mounts))
	for _, m := range mounts {
		points[unescape.Replace(m.MountPoint)] = true
	}
	return points, nil
}
