package socket_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/socket"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"golang.org/x/sys/unix"
)

// pair is a Conn and the other end of its connection.
func pair(t *testing.T) (*socket.Conn, *net.TCPConn) {
	t.Helper()
	near, far := testkit.Pair(t)
	conn, err := socket.New(near)
	if err != nil {
		t.Fatal(err)
	}
	return conn, far
}

// More than the kernel buffers, so that both directions have to wait; echoed and
// compared.
func TestBothDirections(t *testing.T) {
	conn, far := pair(t)
	sent := make([]byte, 32<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(far, far) // its failure shows as a short answer
		far.CloseWrite()
	}()
	failed := make(chan error, 1)
	go func() {
		n, err := conn.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		failed <- errors.Join(err, conn.CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came back, not the %d that were sent", len(got), len(sent))
	}
}

// What was read is acknowledged in a conversation as well, in which the kernel waits for an answer
// to send the acknowledgement with.
func TestAcknowledge(t *testing.T) {
	conn, far := pair(t)
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	unacknowledged := func() (n uint32) {
		t.Helper()
		err := raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				t.Error(err)
				return
			}
			n = info.Unacked
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	word := make([]byte, 4)
	for i := range 40 {
		if _, err := far.Write(word); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, word); err != nil {
			t.Fatal(err)
		}
		conn.Acknowledge()
		if n := unacknowledged(); n != 0 {
			t.Fatalf("%d segments are not acknowledged, in round %d", n, i)
		}
		if _, err := conn.Write(word); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(far, word); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadAndWriteNothing(t *testing.T) {
	conn, _ := pair(t)
	if n, err := conn.Read(nil); n != 0 || err != nil {
		t.Errorf("reading into nothing: %d, %v", n, err)
	}
	if n, err := conn.Write(nil); n != 0 || err != nil {
		t.Errorf("writing nothing: %d, %v", n, err)
	}
}

func TestDeadlineEndsReadAndWrite(t *testing.T) {
	conn, _ := pair(t)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading: %v, want a timeout", err)
	}
	n, err := conn.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing: %v, want a timeout", err)
	}
	if n == 64<<20 {
		t.Errorf("%d bytes were taken by nobody", n)
	}
}

func TestCloseEndsReadAndWrite(t *testing.T) {
	conn, _ := pair(t)
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		failed <- err
	}()
	conn.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading a closed connection: %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to a closed connection: %v", err)
	}
}

// A peer that resets: an error, for this process no signal.
func TestResetIsAnError(t *testing.T) {
	conn, far := pair(t)
	if err := far.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	far.Close()
	_, err := conn.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading: %v, want %v", err, syscall.ECONNRESET)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing: %v, want %v", err, syscall.EPIPE)
	}
}

func TestNoAllocation(t *testing.T) {
	conn, far := pair(t)
	go func() { _, _ = io.Copy(far, far) }()
	p := []byte("a small message")
	allocations := testing.AllocsPerRun(200, func() {
		if _, err := conn.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, p); err != nil {
			t.Fatal(err)
		}
	})
	if allocations >= 1 {
		t.Errorf("%.1f allocations for a message and its echo", allocations)
	}
}

// A write that is blocked asks whether it is still wanted, and stops when not; one
// that is wanted goes through whole.
func TestWriteWhile(t *testing.T) {
	conn, far := pair(t)
	// Else the kernel, which has seen a fast reader, takes it all at once.
	if err := far.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 32<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	asked := 0
	n, err := conn.WriteWhile(sent, time.Millisecond, func() error {
		if asked++; asked == 2 {
			go func() {
				p := make([]byte, len(sent))
				_, _ = io.ReadFull(far, p) // its failure shows as other bytes
				got <- p
			}()
		}
		return nil
	})
	if err != nil || n != len(sent) || !bytes.Equal(<-got, sent) {
		t.Fatalf("%v, or other bytes came", err)
	}
	unwanted := errors.New("unwanted")
	n, err = conn.WriteWhile(sent, time.Millisecond, func() error { return unwanted })
	if err != unwanted {
		t.Errorf("a write that is not wanted: %v", err)
	}
	begun := make([]byte, n)
	if _, err := io.ReadFull(far, begun); err != nil || !bytes.Equal(begun, sent[:n]) {
		t.Errorf("of what it wrote, %d bytes, others came, or %v", n, err)
	}
	// The deadline is its own.
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("a read after it: %d, %v", n, err)
	}
	far.Close()
	if _, err := conn.WriteWhile(sent, time.Second, func() error { return nil }); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write to nobody: %v", err)
	}
}

// A hang-up shows although there is something to be read before it.
func TestHungUp(t *testing.T) {
	conn, far := pair(t)
	if conn.HungUp() {
		t.Error("hung up from the start")
	}
	if _, err := far.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if conn.HungUp() {
		t.Error("hung up because there is something to be read")
	}
	far.Close()
	testkit.Eventually(t, "the hang-up to show", conn.HungUp)
	conn.Close()
	if !conn.HungUp() {
		t.Error("a closed connection is not hung up")
	}
	if d := conn.Unanswered(); d != 0 {
		t.Errorf("a closed connection is unanswered for %s", d)
	}
}

// There is room for a small write until the other side's buffers and ours are full, and
// a connection that has failed does not seem full.
func TestWritable(t *testing.T) {
	conn, far := pair(t)
	if !conn.Writable() {
		t.Error("not from the start")
	}
	if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, 64<<20))
		sent <- err
	}()
	testkit.Eventually(t, "the room to be used up, since nobody reads", func() bool { return !conn.Writable() })
	go func() { _, _ = io.Copy(io.Discard, far) }()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "room, since everything is read", conn.Writable)
	conn.Close()
	if !conn.Writable() {
		t.Error("a closed connection is full")
	}
}

func TestSetBacklog(t *testing.T) {
	listener := testkit.Listen(t)
	if err := socket.SetBacklog(listener, 7); err != nil {
		t.Fatal(err)
	}
	raw, err := listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Of a listener the kernel tells the backlog in this field.
	var backlog uint32
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			backlog = info.Sacked
		}
	})
	if err != nil || backlog != 7 {
		t.Errorf("the backlog is %d, %v", backlog, err)
	}
	listener.Close()
	if err := socket.SetBacklog(listener, 7); err == nil {
		t.Error("a closed listener has one")
	}
}
