// Package socket makes the reads and writes of a TCP connection as cheap as a
// relay wants them.
//
// Before each read(2) and write(2) the Go runtime tells its scheduler that a call
// may block, which after a moment of idleness wakes the runtime's monitor thread.
// A relay is idle between any two messages, so each message paid for a second
// thread, on a core that R wants. A socket of Go's is non-blocking: there is
// nothing to tell. Without that a clusterCall through the relay takes 1.6 to 1.8
// times what it takes directly, with it 2.2 times (docs/decisions.md).
package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection. One goroutine may read and one may write at a time;
// everything else is net.TCPConn's, deadlines included.
type Conn struct {
	*net.TCPConn
	raw syscall.RawConn

	// The call under way. The functions are kept because a closure made for each
	// call is an allocation.
	in, out         []byte
	read, written   int
	inErr, outErr   syscall.Errno
	readFn, writeFn func(fd uintptr) (done bool)
	tryFn, ackFn    func(fd uintptr)
}

// New takes over conn. It fails when conn is closed.
func New(conn *net.TCPConn) (*Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &Conn{TCPConn: conn, raw: raw}
	c.readFn, c.writeFn = c.tryRead, c.tryWrite
	c.tryFn = func(fd uintptr) { c.tryWrite(fd) }
	c.ackFn = acknowledge
	return c, nil
}

// Acknowledge has what was read acknowledged at once. The kernel waits up to 40 ms for an answer
// to send the acknowledgement with, and a peer that has Nagle's algorithm on, as R's end of a
// node has, sends the rest of a message only then.
func (c *Conn) Acknowledge() {
	_ = c.raw.Control(c.ackFn) // a connection that is closed is told by the next Read
}

// Read is io.Reader's.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in = p
	err := c.raw.Read(c.readFn)
	c.in = nil
	switch {
	case err != nil:
		return 0, err
	case c.inErr != 0:
		return 0, os.NewSyscallError("read", c.inErr)
	case c.read == 0:
		return 0, io.EOF
	}
	return c.read, nil
}

// tryRead reports false when there is nothing to read yet.
func (c *Conn) tryRead(fd uintptr) bool {
	c.read, c.inErr = transfer(syscall.SYS_READ, fd, c.in)
	return c.inErr != syscall.EAGAIN
}

// Write is io.Writer's.
func (c *Conn) Write(p []byte) (int, error) {
	c.out, c.written, c.outErr = p, 0, 0
	err := c.raw.Write(c.writeFn)
	c.out = nil
	if err == nil && c.outErr != 0 {
		err = os.NewSyscallError("write", c.outErr)
	}
	return c.written, err
}

// tryWrite reports false when the kernel takes no more for now.
func (c *Conn) tryWrite(fd uintptr) bool {
	for c.written < len(c.out) {
		var n int
		n, c.outErr = transfer(syscall.SYS_WRITE, fd, c.out[c.written:])
		if c.outErr != 0 {
			return c.outErr != syscall.EAGAIN
		}
		c.written += n
	}
	return true
}

// WriteWhile writes p like Write, and while that is blocked asks wanted after each pace
// whether to wait on. It returns how many bytes of p are written, and wanted's error when
// that is not nil. No deadline of the caller's for writing outlasts it.
func (c *Conn) WriteWhile(p []byte, pace time.Duration, wanted func() error) (int, error) {
	// The wait is rare and a deadline costs more than a small write: try first.
	c.out, c.written, c.outErr = p, 0, 0
	err := c.raw.Control(c.tryFn)
	c.out = nil
	if err == nil && c.outErr != 0 && c.outErr != syscall.EAGAIN {
		err = os.NewSyscallError("write", c.outErr)
	}
	sent := c.written
	if err != nil || sent == len(p) {
		return sent, err
	}
	defer c.SetWriteDeadline(time.Time{})
	for {
		if err := c.SetWriteDeadline(time.Now().Add(pace)); err != nil {
			return sent, err
		}
		n, err := c.Write(p[sent:])
		sent += n
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return sent, err
		}
		if err := wanted(); err != nil {
			return sent, err
		}
	}
}

// HungUp reports whether the other side has closed its end or the connection has
// failed, whatever is still to be read.
func (c *Conn) HungUp() bool {
	hungUp := false
	err := c.raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		hungUp = err == nil && n > 0
	})
	return hungUp || err != nil
}

// Writable reports whether a small write would not have to wait. A connection that has
// failed is writable: the write tells.
func (c *Conn) Writable() bool {
	writable := true
	// A connection that is closed is told by the write, too.
	_ = c.raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(poll, 0)
		writable = err != nil || n > 0
	})
	return writable
}

// Unanswered is for how long the other side's kernel has not acknowledged what was
// sent; 0 when nothing waits for that. It tells a network that drops everything
// without anything being read.
func (c *Conn) Unanswered() time.Duration {
	var silent time.Duration
	// A connection that is closed is not silent.
	_ = c.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Unacked > 0 {
			silent = time.Duration(info.Last_ack_recv) * time.Millisecond
		}
	})
	return silent
}

// SetBacklog sets how many connections may wait to be accepted, where Go takes as many
// as the kernel allows. Who dials one more is not refused: its kernel tries again after a
// second, and so on.
func SetBacklog(listener *net.TCPListener, most int) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	var listenErr error
	err = raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), most) })
	if err = errors.Join(err, os.NewSyscallError("listen", listenErr)); err != nil {
		return fmt.Errorf("socket: backlog of %s: %w", listener.Addr(), err)
	}
	return nil
}

// transfer is read(2) or write(2) on a non-blocking descriptor; p is not empty.
func transfer(call, fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

var one int32 = 1

// acknowledge sends the acknowledgement that is due (tcp(7), TCP_QUICKACK). It fails for no
// reason that the next read does not show.
func acknowledge(fd uintptr) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.IPPROTO_TCP, unix.TCP_QUICKACK, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one), 0)
}
