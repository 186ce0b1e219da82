package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/socket"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// recordPair is the records of one end of a TCP connection, and the other end.
func recordPair(t *testing.T) (*records, *net.TCPConn) {
	t.Helper()
	near, far := testkit.Pair(t)
	s, err := socket.New(near)
	if err != nil {
		t.Fatal(err)
	}
	return newRecords(s), far
}

func record(size int, seed byte) []byte {
	r := append([]byte{23, 3, 3, byte(size >> 8), byte(size)}, make([]byte, size)...)
	for i := range size {
		r[recordHeader+i] = byte(i) ^ seed
	}
	return r
}

func mustWrite(t *testing.T, conn net.Conn, p []byte) {
	t.Helper()
	if _, err := conn.Write(p); err != nil {
		t.Fatal(err)
	}
}

// A call of Read never reaches into the next record, and ready is true from the
// next record's last byte on and not before.
func TestReadyNeedsTheWholeRecord(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 17, 400} {
		r, far := recordPair(t)
		first, second := record(30, 1), record(size, 2)
		mustWrite(t, far, append(bytes.Clone(first), second[:1]...))
		// The two may come in two reads of the socket's.
		p := make([]byte, 600)
		if n, err := r.Read(p); err != nil || !bytes.Equal(p[:n], first) {
			t.Fatalf("the first record came as %x, %v", p[:n], err)
		}
		for n := 1; n <= len(second); n++ {
			if err := r.fill(n); err != nil {
				t.Fatal(err)
			}
			if r.ready() != (n == len(second)) {
				t.Fatalf("%d of %d bytes of a record: ready is %v", n, len(second), r.ready())
			}
			if n < len(second) {
				mustWrite(t, far, second[n:n+1])
			}
		}
		n, err := r.Read(p[:3])
		if err != nil || n != 3 || r.ready() {
			t.Fatalf("in the middle of a record: %d bytes, %v, ready %v", n, err, r.ready())
		}
		rest := make([]byte, len(second)-3)
		if _, err := io.ReadFull(r, rest); err != nil || !bytes.Equal(append(p[:3:3], rest...), second) {
			t.Fatalf("the second record came as %x, %v", append(p[:3:3], rest...), err)
		}
	}
}

// Buffers of every size hand out the same bytes, with shrink between any two reads.
func TestRecordsPassEverything(t *testing.T) {
	t.Parallel()
	var all []byte
	for i, size := range []int{0, 1, 507, 508, 16 << 10, 16<<10 + 256, 3, 65535, 0, 200} {
		all = append(all, record(size, byte(i))...)
	}
	for _, buffer := range []int{1 << 10, 300, 5, 3} {
		r, far := recordPair(t)
		written := make(chan error, 1)
		go func() {
			_, err := far.Write(all)
			far.CloseWrite()
			written <- err
		}()
		var got []byte
		p := make([]byte, buffer)
		for i := 0; ; i++ {
			n, err := r.Read(p)
			got = append(got, p[:n]...)
			if i%3 == 0 {
				r.shrink()
			} else if i%7 == 0 {
				r.grow(bulkBuffer)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, all) {
			t.Fatalf("buffers of %d: %d bytes came as %d others", buffer, len(all), len(got))
		}
	}
}

func TestRecordsEnd(t *testing.T) {
	t.Parallel()
	whole := record(10, 1)
	for n := range len(whole) + 1 {
		r, far := recordPair(t)
		mustWrite(t, far, whole[:n])
		if err := far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		wanted := io.ErrUnexpectedEOF
		if n == 0 || n == len(whole) {
			wanted = io.EOF
		}
		var err error
		for p := make([]byte, 100); err == nil; {
			_, err = r.Read(p)
		}
		if !errors.Is(err, wanted) {
			t.Errorf("%d of %d bytes of a record: %v, want %v", n, len(whole), err, wanted)
		}
	}
}

// A worker may end while the other goroutine is in the middle of a write to it; the
// records that it has gathered are part of the TLS connection all the same.
func TestShrinkKeepsGatheredRecords(t *testing.T) {
	t.Parallel()
	r, far := recordPair(t)
	first, second := record(100, 1), record(100, 2)
	err := r.together(func() error {
		if _, err := r.Write(first); err != nil {
			return err
		}
		r.shrink()
		_, err := r.Write(second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(first)+len(second))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, append(first, second...)) {
		t.Fatalf("two gathered records came as %x, %v", got, err)
	}
	r.shrink()
	if r.out != nil {
		t.Error("the buffer of a write that is over was not given back")
	}
}

// Nor does a reader that shrinks wait for a writer that waits for the other side:
// if both sides' readers did, neither writer would go on.
func TestShrinkDoesNotWaitForAWriter(t *testing.T) {
	t.Parallel()
	r, _ := recordPair(t)
	r.writing.Lock()
	defer r.writing.Unlock()
	r.shrink()
}

// A gathered write that fails leaves what it has gathered: what was encrypted is
// part of the stream. The error is the write's.
func TestTogetherReportsErrors(t *testing.T) {
	t.Parallel()
	r, far := recordPair(t)
	failed := errors.New("failed")
	err := r.together(func() error {
		_, _ = r.Write([]byte("begun"))
		return failed
	})
	if err != failed {
		t.Fatalf("got %v, want the write's error", err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "begun" {
		t.Fatalf("got %q, %v", got, err)
	}
	r.Close()
	err = r.together(func() error {
		_, err := r.Write([]byte("late"))
		return err
	})
	if !errors.Is(err, net.ErrClosed) {
		t.Fatalf("a gathered write to a closed connection: %v", err)
	}
}

// Shrink gives back what a bulk transfer took, on either side, and the idle
// buffers are what a parked worker costs.
func TestShrinkGivesMemoryBack(t *testing.T) {
	t.Parallel()
	r, far := recordPair(t)
	c := newConn(r, r.Conn, r, Timing{})
	c.in = make([]byte, bulkBuffer)
	r.grow(bulkBuffer)
	r.out = make([]byte, MaxData)
	c.Shrink()
	if len(c.in) != idleBuffer || len(r.in) != idleBuffer || r.out != nil {
		t.Fatalf("buffers of %d, %d and %d bytes after Shrink", len(c.in), len(r.in), len(r.out))
	}
	// More than that is kept while it is in use.
	c.in, c.start, c.end = make([]byte, bulkBuffer), 0, idleBuffer+1
	mustWrite(t, far, record(1000, 1))
	r.grow(bulkBuffer)
	if err := r.fill(1005); err != nil {
		t.Fatal(err)
	}
	c.Shrink()
	if c.end-c.start != idleBuffer+1 || !bytes.Equal(r.in[r.start:r.end], record(1000, 1)) {
		t.Fatal("Shrink lost bytes")
	}
}

// scripted is a connection that hands out its bytes a few at a time and ends.
type scripted struct {
	net.Conn
	left  []byte
	piece int
}

func (s *scripted) SetReadDeadline(time.Time) error { return nil }

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.piece)], s.left)
	s.left = s.left[n:]
	return n, nil
}

// frames reads all of stream: what was read, pieces of Data joined, and the error.
func frames(t *testing.T, stream []byte, piece, shrink int) ([]Frame, error) {
	c := newConn(&scripted{left: stream, piece: piece}, nil, nil, Timing{})
	var all []Frame
	total := 0
	for i := 1; ; i++ {
		f, err := c.Next()
		if err != nil {
			return all, err
		}
		limit := MaxControl
		if f.Type == Data {
			limit = MaxData
		}
		if total += len(f.Payload); len(f.Payload) > limit || total > len(stream) || len(c.in) > bulkBuffer {
			t.Fatalf("%s of %d bytes, %d in all, buffer of %d", f.Type, len(f.Payload), total, len(c.in))
		}
		switch f.Type {
		case Reserve, Reserved, Release:
			f.Number()
		case Heartbeat:
			t.Fatal("a heartbeat was handed on")
		}
		if last := len(all) - 1; f.Type == Data && last >= 0 && all[last].Type == Data {
			all[last].Payload = append(all[last].Payload, f.Payload...)
		} else {
			all = append(all, Frame{f.Type, bytes.Clone(f.Payload)})
		}
		// Not always: in bulk each costs a buffer, and single bytes are many pieces.
		if shrink > 0 && i%shrink == 0 && i <= 50 {
			c.Shrink()
		}
	}
}

// However the bytes come, the frames are the same, and so is the end.
func FuzzNext(f *testing.F) {
	control := []byte("\x0b\x00\x00\x00\x05\x00\x00\x04abcd\x09\x00\x00\x00\x04\x00\x00\x02{}")
	bulk := append([]byte{8, 0, 8, 0}, make([]byte, 2048)...)
	f.Add(control, uint16(1), uint8(1))
	f.Add(append(bulk, control...), uint16(700), uint8(2))
	f.Add([]byte("\x08\x04\x00\x00abc"), uint16(3), uint8(0))
	f.Add([]byte("\x04\x00\x40\x00{"), uint16(9), uint8(0))
	f.Add([]byte("GET / HTTP/1.1\r\n"), uint16(100), uint8(0))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint16, shrink uint8) {
		wanted, end := frames(t, stream, len(stream)+1, 0)
		if !errors.Is(end, ErrProtocol) && end != io.EOF && end != io.ErrUnexpectedEOF {
			t.Fatalf("ended by %v", end)
		}
		got, err := frames(t, stream, int(piece)+1, int(shrink))
		if err.Error() != end.Error() || len(got) != len(wanted) {
			t.Fatalf("in pieces of %d: %d frames and %v, want %d and %v", int(piece)+1, len(got), err, len(wanted), end)
		}
		for i := range got {
			if got[i].Type != wanted[i].Type || !bytes.Equal(got[i].Payload, wanted[i].Payload) {
				t.Fatalf("in pieces of %d: frame %d is %v, want %v", int(piece)+1, i, got[i], wanted[i])
			}
		}
	})
}
