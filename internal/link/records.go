package link

import (
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/psock-runtime/psock-runtime/internal/socket"
)

// Sizes of TLS records (RFC 8446, 5.1 and 5.2), in bytes.
const (
	recordHeader = 5
	maxPlaintext = 16 << 10
	maxRecord    = recordHeader + maxPlaintext + 256
)

// records is the socket below TLS. TLS reads and writes one record of at most
// 16 KB at a time; records makes of many such calls one to the kernel, which also
// wakes the other side once instead of sixteen times.
type records struct {
	*socket.Conn

	// Reading, by one goroutine; in[start:end] is there to be handed out. A call hands out
	// nothing beyond the record that it begins with, so that TLS holds none of the
	// next one back and ready knows.
	in         []byte
	start, end int
	left       int // bytes of the record begun that are still to be handed out

	writing   sync.Mutex // guards the rest
	gathering bool
	out       []byte
}

func newRecords(s *socket.Conn) *records {
	return &records{Conn: s, in: make([]byte, idleBuffer)}
}

// Read hands out bytes of one record.
func (r *records) Read(p []byte) (int, error) {
	if r.left == 0 {
		if err := r.fill(recordHeader); err != nil {
			return 0, err
		}
		r.left = r.next()
		if r.left > len(r.in) && len(r.in) < maxRecord {
			r.resize(min(r.left, maxRecord))
		}
	}
	if err := r.fill(1); err != nil {
		return 0, noEOF(err)
	}
	n := copy(p[:min(len(p), r.left)], r.in[r.start:r.end])
	r.start += n
	r.left -= n
	return n, nil
}

// fill reads until n bytes are there.
func (r *records) fill(n int) error {
	if r.end-r.start < n && r.start > 0 {
		r.end = copy(r.in, r.in[r.start:r.end])
		r.start = 0
	}
	for r.end-r.start < n {
		read, err := r.Conn.Read(r.in[r.end:])
		r.end += read
		if err != nil && r.end-r.start < n {
			if r.end > r.start && err == io.EOF {
				// Wrapped: TLS takes the bare one for a clean end, having seen no
				// byte of this record.
				err = fmt.Errorf("in the header of a TLS record: %w", io.ErrUnexpectedEOF)
			}
			return err
		}
	}
	return nil
}

// next is the size of the record that begins at start, header included.
func (r *records) next() int {
	header := r.in[r.start:r.end]
	return recordHeader + int(header[3])<<8 + int(header[4])
}

// ready reports whether the next record is there in full, so that reading it does
// not wait. (A record without data, such as a key update, would make TLS wait for
// the one after it; neither side sends any once the connection is up.)
func (r *records) ready() bool {
	there := r.end - r.start
	return r.left == 0 && there >= recordHeader && there >= r.next()
}

// resize makes the buffer of size bytes, or larger if that much is in it.
func (r *records) resize(size int) {
	resized := make([]byte, max(size, r.end-r.start))
	r.end = copy(resized, r.in[r.start:r.end])
	r.in, r.start = resized, 0
}

// grow makes room for what the kernel has ready of a bulk transfer.
func (r *records) grow(size int) {
	if len(r.in) < size {
		r.resize(size)
	}
}

// shrink gives back the memory of a bulk transfer.
func (r *records) shrink() {
	if len(r.in) > idleBuffer {
		r.resize(idleBuffer)
	}
	// A write that is under way keeps its buffer: the records gathered in it are
	// not sent yet. Nor is it waited for, or a reader would wait for a writer.
	if r.writing.TryLock() {
		if !r.gathering {
			r.out = nil
		}
		r.writing.Unlock()
	}
}

// Write holds the lock while it writes, so that a record which TLS sends of its
// own accord (an alert) cannot overtake gathered ones.
func (r *records) Write(p []byte) (int, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.gathering {
		r.out = append(r.out, p...)
		return len(p), nil
	}
	return r.Conn.Write(p)
}

// together runs write, whose calls of Write leave as one.
func (r *records) together(write func() error) error {
	r.gather(true)
	err := write()
	r.writing.Lock()
	defer r.writing.Unlock()
	r.gathering = false
	if _, flushed := r.Conn.Write(r.out); err == nil {
		err = flushed
	}
	r.out = r.out[:0]
	return err
}

func (r *records) gather(on bool) {
	r.writing.Lock()
	r.gathering = on
	r.writing.Unlock()
}

var _ net.Conn = (*records)(nil)
