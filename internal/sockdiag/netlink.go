package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sizes and numbers of linux/netlink.h, linux/sock_diag.h and
// linux/inet_diag.h.
const (
	headerLen  = 16 // struct nlmsghdr
	requestLen = 56 // struct inet_diag_req_v2
	entryLen   = 72 // struct inet_diag_msg

	sockDiagByFamily = 20
	attrBytecode     = 1 // INET_DIAG_REQ_BYTECODE

	opSourceAtLeast = 2 // INET_DIAG_BC_S_GE
	opSourceAtMost  = 3 // INET_DIAG_BC_S_LE

	// A dump comes in datagrams of at most 32 KiB (netlink_dump caps
	// max_recvmsg_len there): about 450 listeners each.
	datagramLen = 32 << 10

	// The kernel fills the first datagram before sendmsg returns, so an answer
	// takes microseconds; a socket that stays silent this long is broken.
	answerTimeout = time.Second
)

// netlinkSource asks sock_diag. The socket is mdlayher/netlink's; requests and
// answers go through its raw connection with buffers that are kept: measured
// with five listeners, its Execute takes 38 us and 78 allocations, this 24-31 us
// and none, and it is asked up to 1,000 times a second.
type netlinkSource struct {
	ports Range
	conn  *netlink.Conn
	raw   syscall.RawConn
	seq   uint32

	dump   []byte // the listener request, its sequence number set per call
	lookup []byte // the exact request
	out    []byte // what send writes: one of the two
	buf    []byte
	n      int
	ioErr  error
	// The callbacks are kept because a closure made per call is an allocation.
	sendFn, recvFn func(fd uintptr) bool
}

// openNetlink returns a source that has answered correctly once. A kernel
// without sock_diag refuses; a sandbox may also accept the request and answer
// with an empty table, which would make every plan() wait for ever, so a
// listener of our own must show up.
func openNetlink(ports Range) (*netlinkSource, error) {
	s := &netlinkSource{
		ports:  ports,
		dump:   dumpRequest(ports),
		lookup: make([]byte, headerLen+requestLen),
		buf:    make([]byte, datagramLen),
	}
	s.sendFn, s.recvFn = s.send, s.recv
	if err := s.prove(); err != nil {
		_ = s.close() // the reason above is the one worth telling
		return nil, err
	}
	_, err := s.listeners(nil)
	return s, err
}

func (s *netlinkSource) dial() error {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return fmt.Errorf("open a sock_diag netlink socket: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("open a sock_diag netlink socket: %w", err)
	}
	s.conn, s.raw = conn, raw
	return nil
}

// prove looks up a loopback listener that exists.
func (s *netlinkSource) prove() error {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("open a listener to try sock_diag on: %w", err)
	}
	defer ln.Close()
	at := unmap(ln.Addr().(*net.TCPAddr).AddrPort())
	s.exactRequest(at, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	e, err := s.one()
	if err != nil {
		return fmt.Errorf("look up a listener of our own with sock_diag: %w", err)
	}
	if e.state != tcpListen || e.local.Port() != at.Port() {
		return fmt.Errorf("sock_diag answers the lookup of %v with %v in state %d", at, e.local, e.state)
	}
	return nil
}

func (s *netlinkSource) close() error {
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn, s.raw = nil, nil
	return err
}

func (s *netlinkSource) listeners(dst []Listener) ([]Listener, error) {
	if err := s.ask(s.dump); err != nil {
		return dst, err
	}
	for {
		if err := s.receive(); err != nil {
			return dst, s.abandon(err)
		}
		var done bool
		var err error
		dst, done, err = decodeListeners(s.buf[:s.n], s.seq, s.ports, dst)
		if err != nil {
			return dst, s.abandon(err)
		}
		if done {
			return dst, nil
		}
	}
}

func (s *netlinkSource) owner(local, remote netip.AddrPort) (uint32, error) {
	s.exactRequest(local, remote)
	e, err := s.one()
	if errors.Is(err, unix.ENOENT) {
		return 0, ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	// Where the connection does not exist the kernel answers with the listener
	// on its local port instead.
	if e.local != local || e.remote != remote || !held(e.state, e.inode) {
		return 0, ErrNotFound
	}
	return e.uid, nil
}

// one sends the exact request and returns its answer.
func (s *netlinkSource) one() (entry, error) {
	if err := s.ask(s.lookup); err != nil {
		return entry{}, err
	}
	for {
		if err := s.receive(); err != nil {
			return entry{}, s.abandon(err)
		}
		e, found, err := decodeOne(s.buf[:s.n], s.seq)
		if err != nil {
			return entry{}, s.abandon(err)
		}
		if found {
			return e, nil
		}
	}
}

// ask sends a request with the next sequence number.
func (s *netlinkSource) ask(request []byte) error {
	if s.conn == nil {
		if err := s.dial(); err != nil {
			return err
		}
	}
	s.seq++
	binary.NativeEndian.PutUint32(request[8:], s.seq)
	s.out = request
	if err := s.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return s.abandon(err)
	}
	if err := errors.Join(s.raw.Write(s.sendFn), s.ioErr); err != nil {
		return s.abandon(fmt.Errorf("ask sock_diag: %w", err))
	}
	return nil
}

func (s *netlinkSource) receive() error {
	if err := errors.Join(s.raw.Read(s.recvFn), s.ioErr); err != nil {
		return fmt.Errorf("read sock_diag's answer: %w", err)
	}
	return nil
}

// abandon closes the socket, so that the next question opens another one, and
// returns err. A dump that is not read to its end blocks the socket for the
// next (EBUSY). An errno in an answer ended the exchange properly.
func (s *netlinkSource) abandon(err error) error {
	var refused answerError
	if !errors.As(err, &refused) {
		_ = s.close()
	}
	return err
}

func (s *netlinkSource) send(fd uintptr) bool {
	_, s.ioErr = unix.Write(int(fd), s.out)
	return again(s.ioErr)
}

func (s *netlinkSource) recv(fd uintptr) bool {
	s.n, s.ioErr = unix.Read(int(fd), s.buf)
	return again(s.ioErr)
}

// again reports whether a call is finished, false when it is to be repeated
// once the socket is ready.
func again(err error) bool { return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) }

// dumpRequest is a dump of AF_INET listeners, restricted in the kernel to the
// port range by a two-instruction filter.
func dumpRequest(ports Range) []byte {
	const filterLen = 16
	b := make([]byte, headerLen+requestLen+4+filterLen)
	putHeader(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[16], b[17] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[20:], 1<<tcpListen)
	attr := b[headerLen+requestLen:]
	binary.NativeEndian.PutUint16(attr[0:], 4+filterLen)
	binary.NativeEndian.PutUint16(attr[2:], attrBytecode)
	// Each comparison is two words: {operation, jump if so, jump if not} and
	// {0, 0, port}. A jump to the program's end accepts, one word beyond it
	// rejects.
	putComparison(attr[4:], opSourceAtLeast, 20, ports.First)
	putComparison(attr[12:], opSourceAtMost, 12, ports.Last)
	return b
}

func putComparison(b []byte, op uint8, reject, port uint16) {
	b[0], b[1] = op, 8
	binary.NativeEndian.PutUint16(b[2:], reject)
	binary.NativeEndian.PutUint16(b[6:], port)
}

// exactRequest asks for the socket with these addresses.
func (s *netlinkSource) exactRequest(local, remote netip.AddrPort) {
	b := s.lookup
	clear(b)
	putHeader(b, unix.NLM_F_REQUEST)
	b[16], b[17] = unix.AF_INET6, unix.IPPROTO_TCP
	if local.Addr().Is4() {
		b[16] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(b[20:], ^uint32(0)) // any state
	id := b[24:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint64(id[40:], ^uint64(0)) // INET_DIAG_NOCOOKIE
}

func putHeader(b []byte, flags uint16) {
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], flags)
}
