// Package sockdiag tells which TCP listeners exist in this network namespace,
// and who owns the other end of a loopback connection.
//
// It is how the rendezvous sees demand: an R session that wants a worker
// listens on a port of the PSOCK range, and nothing else announces it. The
// question is asked ten times a second while nothing happens and up to 2,000
// times a second while a cluster forms, so its cost matters.
//
// Two backends answer alike. The netlink one asks the kernel's sock_diag for
// listeners in the port range only; an answer takes about 30 us, and 1,000
// established connections do not change that. The procfs one reads
// /proc/net/tcp, for which Linux walks its whole table of connections: 3.7 ms,
// and 7.3 ms with 1,000 of them, so whoever asks had better mind how long an
// answer takes. It is used where netlink is refused (gVisor, a strict seccomp
// profile). Neither needs a privilege inside the network namespace. (Go
// benchmark BenchmarkListeners, two cores, Linux 6.18.)
//
// Only AF_INET sockets bound to 0.0.0.0 are reported. R's socketConnection(
// server = TRUE) and serverSocket() open exactly that (socket(AF_INET), bound
// to INADDR_ANY; seen with ss on R 4.2 and asserted by this package's tests),
// so a server on 127.0.0.1 or on [::] that happens to sit in the port range is
// not an R session, and is not connected to.
package sockdiag

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Listener is one listening TCP socket on 0.0.0.0.
type Listener struct {
	// Cookie identifies the socket for as long as the network namespace
	// lives: a listener that is closed and opened again on the same port has
	// another one. It is the kernel's socket cookie, or the inode under the
	// procfs backend, so cookies of different backends do not compare.
	Cookie uint64
	// Port is the port it listens on.
	Port uint16
	// UID owns the socket, as this process's user namespace numbers it.
	UID uint32
	// Inode is the socket's number in the socket:[N] links of /proc/PID/fd.
	Inode uint32
}

// Range is a range of ports, both ends included.
type Range struct {
	First, Last uint16
}

// Contains reports whether port lies in the range.
func (r Range) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// String returns the range as FIRST-LAST.
func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

func (r Range) validate() error {
	if r.First == 0 || r.First > r.Last {
		return fmt.Errorf("port range %s: give FIRST-LAST with 1 <= FIRST <= LAST <= 65535", r)
	}
	return nil
}

// Backend names the source that a Prober asks.
type Backend string

// The two backends.
const (
	Netlink Backend = "netlink"
	Procfs  Backend = "procfs"
)

// ErrNotFound says that there is no such connection in this network namespace,
// or that no process holds it any more.
var ErrNotFound = errors.New("no local socket has these addresses")

// source is what a backend does; a Prober serialises the calls.
type source interface {
	listeners(dst []Listener) ([]Listener, error)
	owner(local, remote netip.AddrPort) (uint32, error)
	close() error
}

// Prober answers questions about the TCP sockets of one network namespace: that
// of the thread which called Open. Its methods may be called concurrently; they
// take turns.
type Prober struct {
	ports   Range
	backend Backend
	reason  error

	mu  sync.Mutex
	src source
}

// Open returns a Prober for listeners with a port in ports. It tries netlink,
// proves it on a listener of its own, and takes procfs if that fails; Backend
// and Reason tell. It fails when ports is not a range, and when neither backend
// works. The caller closes the Prober.
func Open(ports Range) (*Prober, error) {
	if err := ports.validate(); err != nil {
		return nil, err
	}
	nl, refused := openNetlink(ports)
	if refused == nil {
		return &Prober{ports: ports, backend: Netlink, src: nl}, nil
	}
	p := &Prober{ports: ports, backend: Procfs, reason: refused, src: newProcfs(ports)}
	if _, err := p.Listeners(nil); err != nil {
		return nil, fmt.Errorf("list TCP listeners: netlink: %w; and %w; "+
			"allow AF_NETLINK sockets or mount /proc in this container", refused, err)
	}
	return p, nil
}

// Ports returns the range that Open was given.
func (p *Prober) Ports() Range { return p.ports }

// Backend returns which source the answers come from.
func (p *Prober) Backend() Backend { return p.backend }

// Reason returns why the backend is not netlink, nil when it is.
func (p *Prober) Reason() error { return p.reason }

// Listeners appends the listeners there are now to dst, in no particular order,
// and returns it; dst[:0] of the last answer makes a call without allocation.
// On an error dst is returned as it was; the next call starts afresh.
func (p *Prober) Listeners(dst []Listener) ([]Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out, err := p.src.listeners(dst)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// ConnUID returns the user id that owns the TCP socket whose own address is
// local and whose peer is remote. It returns an error that wraps ErrNotFound
// when no process in this network namespace holds such a socket, which includes
// one that is closed and only lingers: the kernel reports user id 0 for those,
// and a caller must not take them for root's.
func (p *Prober) ConnUID(local, remote netip.AddrPort) (uint32, error) {
	local, remote = unmap(local), unmap(remote)
	if local.Addr().Is4() != remote.Addr().Is4() || !local.IsValid() || !remote.IsValid() {
		return 0, fmt.Errorf("owner of the socket %v to %v: the addresses must be of one IP family", local, remote)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	uid, err := p.src.owner(local, remote)
	if err != nil {
		return 0, fmt.Errorf("owner of the socket %v to %v: %w", local, remote, err)
	}
	return uid, nil
}

// PeerUID returns the user id of the local process at the other end of a TCP
// connection over loopback, whose addresses are, as this side sees them, local and
// remote. Its errors are those of ConnUID.
func (p *Prober) PeerUID(local, remote net.Addr) (uint32, error) {
	own, ok1 := local.(*net.TCPAddr)
	peer, ok2 := remote.(*net.TCPAddr)
	if !ok1 || !ok2 {
		return 0, fmt.Errorf("owner of the peer of %v: not a TCP connection", local)
	}
	return p.ConnUID(peer.AddrPort(), own.AddrPort())
}

// Close frees the netlink socket.
func (p *Prober) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.src.close()
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// held reports whether a socket in this TCP state, with this inode, belongs to a
// process. TIME_WAIT and SYN_RECV entries have no owner and show user id 0, and
// so does a socket that its process has closed (inode 0).
func held(state uint8, inode uint32) bool {
	return inode != 0 && state != tcpTimeWait && state != tcpSynRecv && state != tcpNewSynRecv &&
		state != tcpListen && state != tcpClose
}

// TCP states of include/net/tcp_states.h, alike in sock_diag and /proc/net/tcp.
const (
	tcpSynRecv    = 3
	tcpTimeWait   = 6
	tcpClose      = 7
	tcpListen     = 10
	tcpNewSynRecv = 12
)
