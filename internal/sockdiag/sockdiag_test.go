package sockdiag

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary is its own helper: a process of another user that listens,
// or connects, and holds on until its standard input ends.
func TestMain(m *testing.M) {
	if where := os.Getenv("SOCKDIAG_TEST_LISTEN"); where != "" {
		hold(net.Listen("tcp4", where))
	}
	if where := os.Getenv("SOCKDIAG_TEST_DIAL"); where != "" {
		hold(net.Dial("tcp", where))
	}
	goleak.VerifyTestMain(m)
}

func hold[T any](_ T, err error) {
	fmt.Println(err)
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	os.Exit(0)
}

// anyPort is wide enough for whatever port the kernel gives a listener on :0.
var anyPort = Range{First: 1, Last: 65535}

// backends runs a test against both.
func backends(t *testing.T, ports Range, f func(t *testing.T, p *Prober)) {
	t.Helper()
	t.Run("netlink", func(t *testing.T) {
		nl, err := openNetlink(ports)
		if err != nil {
			t.Fatal(err)
		}
		p := &Prober{backend: Netlink, src: nl}
		t.Cleanup(func() { p.Close() })
		f(t, p)
	})
	t.Run("procfs", func(t *testing.T) { f(t, &Prober{backend: Procfs, src: newProcfs(ports)}) })
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func portOf(ln net.Listener) uint16 { return uint16(ln.Addr().(*net.TCPAddr).Port) }

// find returns the listeners on port.
func find(t *testing.T, p *Prober, port uint16) []Listener {
	t.Helper()
	all, err := p.Listeners(nil)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(l Listener) bool { return l.Port != port })
}

func inodeOf(t *testing.T, ln net.Listener) uint32 {
	t.Helper()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if cerr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return uint32(st.Ino)
}

func TestOpenPrefersNetlink(t *testing.T) {
	p, err := Open(Range{11000, 11999})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Backend() != Netlink || p.Reason() != nil {
		t.Errorf("backend %s (%v), want netlink", p.Backend(), p.Reason())
	}
}

func TestOpenRefusesABadRange(t *testing.T) {
	for _, r := range []Range{{0, 10}, {12000, 11000}} {
		if _, err := Open(r); err == nil || !strings.Contains(err.Error(), r.String()) {
			t.Errorf("Open(%s) = %v, want an error that names the range", r, err)
		}
	}
}

func TestWildcardListenerIsReported(t *testing.T) {
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		ln := listen(t, "tcp4", "0.0.0.0:0")
		got := find(t, p, portOf(ln))
		if len(got) != 1 {
			t.Fatalf("%d listeners on the port, want 1: %+v", len(got), got)
		}
		if got[0].UID != uint32(os.Getuid()) || got[0].Inode != inodeOf(t, ln) || got[0].Cookie == 0 {
			t.Errorf("%+v, want user %d, inode %d and a cookie", got[0], os.Getuid(), inodeOf(t, ln))
		}
		ln.Close()
		if got := find(t, p, portOf(ln)); len(got) != 0 {
			t.Errorf("a closed listener is still reported: %+v", got)
		}
	})
}

func TestOthersAreNotReported(t *testing.T) {
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		loopback := listen(t, "tcp4", "127.0.0.1:0")
		six := listen(t, "tcp6", "[::]:0")
		conn, err := net.Dial("tcp4", loopback.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		dialled := uint16(conn.LocalAddr().(*net.TCPAddr).Port)
		for _, port := range []uint16{portOf(loopback), portOf(six), dialled} {
			if got := find(t, p, port); len(got) != 0 {
				t.Errorf("port %d is reported: %+v", port, got)
			}
		}
	})
}

// consecutive listens on three consecutive ports and returns the first.
func consecutive(t *testing.T) uint16 {
	t.Helper()
	for first := uint16(21000); first < 30000; first += 3 {
		var lns []net.Listener
		for port := first; port < first+3; port++ {
			ln, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
			if err != nil {
				break
			}
			lns = append(lns, ln)
		}
		if len(lns) == 3 {
			t.Cleanup(func() { lns[0].Close(); lns[1].Close(); lns[2].Close() })
			return first
		}
		for _, ln := range lns {
			ln.Close()
		}
	}
	t.Fatal("no three consecutive free ports between 21000 and 30000")
	return 0
}

func TestPortRangeIncludesItsEnds(t *testing.T) {
	first := consecutive(t)
	for _, ports := range []Range{{first, first}, {first + 1, first + 1}, {first, first + 1}, {first + 1, first + 2}} {
		backends(t, ports, func(t *testing.T, p *Prober) {
			all, err := p.Listeners(nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []uint16
			for _, l := range all {
				got = append(got, l.Port)
			}
			slices.Sort(got)
			var want []uint16
			for port := ports.First; port <= ports.Last; port++ {
				want = append(want, port)
			}
			if !slices.Equal(got, want) {
				t.Errorf("range %s: ports %v, want %v", ports, got, want)
			}
		})
	}
}

func TestTheHighestPort(t *testing.T) {
	ln := listen(t, "tcp4", "0.0.0.0:65535")
	backends(t, Range{65535, 65535}, func(t *testing.T, p *Prober) {
		if got := find(t, p, portOf(ln)); len(got) != 1 {
			t.Errorf("%+v, want one listener", got)
		}
	})
}

func TestReopenedListenerHasAnotherCookie(t *testing.T) {
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		ln := listen(t, "tcp4", "0.0.0.0:0")
		before := find(t, p, portOf(ln))
		again := find(t, p, portOf(ln))
		if !slices.Equal(before, again) {
			t.Errorf("the same listener is %+v, then %+v", before, again)
		}
		ln.Close()
		ln = listen(t, "tcp4", fmt.Sprintf("0.0.0.0:%d", portOf(ln)))
		after := find(t, p, portOf(ln))
		if len(before) != 1 || len(after) != 1 || before[0].Cookie == after[0].Cookie {
			t.Errorf("before %+v, after %+v, want other cookies", before, after)
		}
	})
}

func TestSharedPortIsTwoListeners(t *testing.T) {
	reuse := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	one, err := reuse.Listen(t.Context(), "tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := reuse.Listen(t.Context(), "tcp4", fmt.Sprintf("0.0.0.0:%d", portOf(one)))
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		if got := find(t, p, portOf(one)); len(got) != 2 || got[0].Cookie == got[1].Cookie {
			t.Errorf("%+v, want two with their own cookies", got)
		}
	})
}

func TestBackendsAgree(t *testing.T) {
	for range 50 {
		listen(t, "tcp4", "0.0.0.0:0")
	}
	var answers [][]Listener
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		all, err := p.Listeners(nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			all[i].Cookie = 0
		}
		slices.SortFunc(all, func(a, b Listener) int { return int(a.Inode) - int(b.Inode) })
		answers = append(answers, all)
	})
	if len(answers[0]) < 50 || !slices.Equal(answers[0], answers[1]) {
		t.Errorf("netlink says %+v\nprocfs says %+v", answers[0], answers[1])
	}
}

// A dump of more than one datagram (32 KiB hold about 450 entries).
func TestManyListeners(t *testing.T) {
	const n = 1000
	want := map[uint16]bool{}
	for range n {
		want[portOf(listen(t, "tcp4", "0.0.0.0:0"))] = true
	}
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		all, err := p.Listeners(nil)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, l := range all {
			if want[l.Port] {
				found++
			}
		}
		if found != n {
			t.Errorf("%d of %d listeners found", found, n)
		}
	})
}

func TestListenersAppends(t *testing.T) {
	listen(t, "tcp4", "0.0.0.0:0")
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		mark := Listener{Port: 7}
		got, err := p.Listeners([]Listener{mark})
		if err != nil || len(got) < 2 || got[0] != mark {
			t.Errorf("%+v, %v; want the mark first, then listeners", got, err)
		}
		allocs := testing.AllocsPerRun(20, func() {
			if got, err = p.Listeners(got[:0]); err != nil {
				t.Fatal(err)
			}
		})
		// Opening a file makes a C string of its name.
		if allowed := map[Backend]float64{Procfs: 1}[p.Backend()]; allocs > allowed {
			t.Errorf("%v allocations a call, want %v", allocs, allowed)
		}
	})
}

func TestSourceRecoversFromABrokenSocket(t *testing.T) {
	ln := listen(t, "tcp4", "0.0.0.0:0")
	nl, err := openNetlink(anyPort)
	if err != nil {
		t.Fatal(err)
	}
	p := &Prober{src: nl}
	defer p.Close()
	nl.conn.Close()
	if _, err := p.Listeners(nil); err == nil {
		t.Fatal("no error from a closed socket")
	}
	if got := find(t, p, portOf(ln)); len(got) != 1 {
		t.Errorf("%+v, want the listener", got)
	}
}

func TestProcfsErrorsNameTheFile(t *testing.T) {
	s := newProcfs(anyPort)
	s.tcp4 = t.TempDir() + "/tcp"
	if _, err := s.listeners(nil); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), s.tcp4) {
		t.Errorf("%v, want one that names %s", err, s.tcp4)
	}
	if err := os.WriteFile(s.tcp4, []byte("heading\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.listeners(nil); err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("%v, want one that shows the line", err)
	}
}
