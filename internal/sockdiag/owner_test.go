package sockdiag

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// helper starts this test binary as user 65534 and returns once it has its
// socket. It ends with the test.
func helper(t *testing.T, variable, value string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{variable + "=" + value}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	in, out := testkit.Start(t, cmd)
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "<nil>\n" {
		t.Fatalf("the helper says %q, %v", said, err)
	}
}

func TestListenerOfAnotherUser(t *testing.T) {
	port := testkit.Port(t)
	helper(t, "SOCKDIAG_TEST_LISTEN", fmt.Sprintf("0.0.0.0:%d", port))
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		if got := find(t, p, uint16(port)); len(got) != 1 || got[0].UID != 65534 {
			t.Errorf("%+v, want one of user 65534", got)
		}
	})
}

func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestPeerUID(t *testing.T) {
	for _, c := range []struct{ network, listen, dial string }{
		{"tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"tcp6", "[::1]:0", "::1"},
		{"tcp", "[::]:0", "127.0.0.1"}, // accepted on a dual-stack socket
	} {
		ln := listen(t, c.network, c.listen)
		target := net.JoinHostPort(c.dial, fmt.Sprint(portOf(ln)))
		helper(t, "SOCKDIAG_TEST_DIAL", target)
		theirs := accept(t, ln)
		own, err := net.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		ours := accept(t, ln)
		backends(t, anyPort, func(t *testing.T, p *Prober) {
			if uid, err := p.PeerUID(theirs.LocalAddr(), theirs.RemoteAddr()); uid != 65534 || err != nil {
				t.Errorf("%s: the helper's end is user %d's, %v", c.listen, uid, err)
			}
			if uid, err := p.PeerUID(ours.LocalAddr(), ours.RemoteAddr()); uid != uint32(os.Getuid()) || err != nil {
				t.Errorf("%s: our end is user %d's, %v", c.listen, uid, err)
			}
			// The accepted side, which for the third case is a socket of
			// AF_INET6 with IPv4 addresses.
			if uid, err := p.PeerUID(own.LocalAddr(), own.RemoteAddr()); uid != uint32(os.Getuid()) || err != nil {
				t.Errorf("%s: the accepted end is user %d's, %v", c.listen, uid, err)
			}
		})
	}
}

func TestConnUIDOfNoConnection(t *testing.T) {
	ln := listen(t, "tcp4", "127.0.0.1:0")
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	nobody := netip.MustParseAddrPort("127.0.0.1:1")
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		for _, pair := range [][2]netip.AddrPort{{nobody, nobody}, {at, nobody}, {nobody, at}} {
			if uid, err := p.ConnUID(pair[0], pair[1]); !errors.Is(err, ErrNotFound) {
				t.Errorf("%v to %v is user %d's, %v; want ErrNotFound", pair[0], pair[1], uid, err)
			}
		}
		if _, err := p.ConnUID(at, netip.MustParseAddrPort("[::1]:80")); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("addresses of two families: %v, want an error of its own", err)
		}
	})
}

// A socket that its process has closed shows user id 0 in the kernel's tables,
// whoever had it: half closed (FIN_WAIT2) and gone (TIME_WAIT).
func TestClosedConnectionIsNobodys(t *testing.T) {
	backends(t, anyPort, func(t *testing.T, p *Prober) {
		ln := listen(t, "tcp4", "127.0.0.1:0")
		client, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server := accept(t, ln)
		client.Close()
		if _, err := server.Read(make([]byte, 1)); err == nil {
			t.Fatal("read something from a closed connection")
		}
		if uid, err := p.PeerUID(server.LocalAddr(), server.RemoteAddr()); !errors.Is(err, ErrNotFound) {
			t.Errorf("a closed peer is user %d's, %v; want ErrNotFound", uid, err)
		}
		server.Close()
		l, r := server.LocalAddr().(*net.TCPAddr).AddrPort(), server.RemoteAddr().(*net.TCPAddr).AddrPort()
		if uid, err := p.ConnUID(r, l); !errors.Is(err, ErrNotFound) {
			t.Errorf("an ended connection is user %d's, %v; want ErrNotFound", uid, err)
		}
	})
}
