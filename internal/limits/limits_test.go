package limits

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	v2Mount = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"
	noise   = "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n24 23 0:5 / /proc rw - proc proc rw\n"
)

// root makes a file system with the given files, and the process's two files.
func root(t *testing.T, cgroup, mountinfo string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"proc/17/mountinfo": noise + mountinfo}
	if cgroup != "" {
		all["proc/17/cgroup"] = cgroup
	}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.TrimSuffix(content, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("17", filepath.Join(dir, "proc/self")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLimitsOfCgroups(t *testing.T) {
	const gib = 1 << 30
	v1Mounts := func(root string) string {
		return "31 23 0:27 " + root + " /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n" +
			"32 23 0:28 " + root + " /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n" +
			"33 23 0:29 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n"
	}
	const v1Group = "5:memory:/kubepods/pod1/c1\n4:cpu,cpuacct:/kubepods/pod1/c1\n0::/"
	for _, tc := range []struct {
		name, cgroup, mounts string
		files                map[string]string
		memory               int64
		cpus                 float64
	}{
		{"no control groups", "", "", nil, 0, 8},
		{"v2 not mounted", "0::/", "", nil, 0, 8},
		{"v2 container", "0::/", v2Mount, map[string]string{
			"sys/fs/cgroup/memory.max": "1073741824", "sys/fs/cgroup/cpu.max": "250000 100000",
		}, gib, 2.5},
		{"v2 unlimited", "0::/", v2Mount, map[string]string{
			"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/cpu.max": "max 100000",
		}, 0, 8},
		{"v2 more quota than CPUs", "0::/", v2Mount, map[string]string{"sys/fs/cgroup/cpu.max": "6400000 100000"}, 0, 8},
		{"v2 on the host, the pod's limit is smaller", "0::/kubepods/pod1/c1", v2Mount, map[string]string{
			"sys/fs/cgroup/kubepods/pod1/c1/memory.max": "max", "sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "300000 100000",
			"sys/fs/cgroup/kubepods/pod1/memory.max": "1073741824", "sys/fs/cgroup/kubepods/pod1/cpu.max": "100000 50000",
			"sys/fs/cgroup/kubepods/memory.max": "4294967296", "sys/fs/cgroup/kubepods/cpu.max": "max 100000",
		}, gib, 2},
		{
			"v2 without a namespace, only the group is mounted", "0::/kubepods/pod1/c1",
			"30 23 0:26 /kubepods/pod1/c1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			map[string]string{"sys/fs/cgroup/memory.max": "1073741824"}, gib, 8,
		},
		{
			"v2 outside of the namespace", "0::/../../other", v2Mount,
			map[string]string{"sys/fs/cgroup/memory.max": "1073741824"}, gib, 8,
		},
		{
			"v2 mounted twice", "0::/kubepods/pod1",
			"29 23 0:26 /kubepods/pod10 /other ro - cgroup2 cgroup rw\n" + v2Mount,
			map[string]string{"sys/fs/cgroup/kubepods/pod1/memory.max": "1073741824", "other/memory.max": "1"}, gib, 8,
		},
		{"v1 container", v1Group, v1Mounts("/kubepods/pod1/c1"), map[string]string{
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
		}, gib, 0.5},
		{"v1 on the host", v1Group, v1Mounts("/"), map[string]string{
			"sys/fs/cgroup/memory/kubepods/pod1/c1/memory.limit_in_bytes": "9223372036854771712",
			"sys/fs/cgroup/memory/kubepods/pod1/memory.limit_in_bytes":    "1073741824",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":                  "9223372036854771712",
			"sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/c1/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/c1/cpu.cfs_period_us": "100000",
		}, gib, 8},
		{"v1 unlimited, on 64 KB pages", v1Group, v1Mounts("/kubepods/pod1/c1"), map[string]string{
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854710272",
		}, 0, 8},
		{"v1, limit of a group that is not mounted", v1Group, v1Mounts("/kubepods/pod1/c1"), map[string]string{
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
			"sys/fs/cgroup/memory/memory.stat":           "cache 1\nhierarchical_memory_limit 1073741824\nhierarchical_memsw_limit 9",
		}, gib, 8},
		{"both, the controllers in v2", "1:name=systemd:/x\n0::/x", "31 23 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n" +
			"33 23 0:29 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n", map[string]string{
			"sys/fs/cgroup/unified/x/memory.max": "1073741824",
		}, gib, 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := System{Root: root(t, tc.cgroup, tc.mounts, tc.files), NumCPU: func() int { return 8 }}
			got, err := s.Limits()
			if want := (Limits{tc.memory, tc.cpus}); err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestLimitsErrors(t *testing.T) {
	for _, tc := range []struct {
		name, file, content, want string
	}{
		{"memory", "sys/fs/cgroup/memory.max", "1 GB", "memory.max"},
		{"cpu", "sys/fs/cgroup/cpu.max", "0 0", "cpu.max"},
		{"cpu fields", "sys/fs/cgroup/cpu.max", "1 2 3", "cpu.max"},
		{"cpu period", "sys/fs/cgroup/cpu.max", "1 x", "cpu.max"},
		{"cgroup", "proc/17/cgroup", "nonsense", "memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := System{Root: root(t, "0::/", v2Mount, map[string]string{tc.file: tc.content})}.Limits()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that names %s", err, tc.want)
			}
		})
	}
	if _, err := (System{Root: t.TempDir()}).Limits(); err == nil {
		t.Error("no error without proc")
	}
}

func TestOOMKillsAreCounted(t *testing.T) {
	const v1 = "32 23 0:28 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
	for _, tc := range []struct {
		name, cgroup, mounts, file, content string
		want                                int64
		err                                 bool
	}{
		{"v2", "0::/", v2Mount, "sys/fs/cgroup/memory.events", "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 1", 3, false},
		{"v2, controller off in the group", "0::/a/b", v2Mount, "sys/fs/cgroup/a/memory.events", "oom_kill 2", 2, false},
		{"v2, root group", "0::/", v2Mount, "sys/fs/cgroup/cgroup.procs", "1", 0, true},
		{"v1", "5:memory:/x", v1, "sys/fs/cgroup/memory/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7", 7, false},
		{"v1, old kernel", "5:memory:/x", v1, "sys/fs/cgroup/memory/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0", 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := System{Root: root(t, tc.cgroup, tc.mounts, map[string]string{tc.file: tc.content})}.OOMKills()
			if got != tc.want || (err != nil) != tc.err || (tc.err && !errors.Is(err, errors.ErrUnsupported)) {
				t.Errorf("got %d, %v, want %d, error %v", got, err, tc.want, tc.err)
			}
		})
	}
}

// TestLimitsOfThisMachine reads the real thing, whatever it is here.
func TestLimitsOfThisMachine(t *testing.T) {
	l, err := Read()
	if err != nil || l.CPUs <= 0 || l.MemoryBytes < 0 {
		t.Errorf("got %+v, %v", l, err)
	}
	if _, err := OOMKills(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}
