package sockdiag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"
)

// procfsSource reads the connection tables of /proc. They belong to the network
// namespace of whoever opens them: thread-self, not self, because Go's main
// thread may live in another one than the thread that runs this code. They are
// opened for each question: a file kept open would go on showing an old table in
// sandboxes that render it at open. The cost grows with every connection in the
// namespace, at about 150 bytes a line.
type procfsSource struct {
	ports      Range
	tcp4, tcp6 string
	buf        []byte
}

func newProcfs(ports Range) *procfsSource {
	return &procfsSource{
		ports: ports,
		tcp4:  "/proc/thread-self/net/tcp",
		tcp6:  "/proc/thread-self/net/tcp6",
		buf:   make([]byte, 64<<10),
	}
}

func (s *procfsSource) close() error { return nil }

func (s *procfsSource) listeners(dst []Listener) ([]Listener, error) {
	table, err := s.read(s.tcp4)
	if err != nil {
		return dst, err
	}
	for line := range lines(table) {
		e, err := parseLine(line)
		if err != nil {
			return dst, fmt.Errorf("%s: %w", s.tcp4, err)
		}
		if e.state == tcpListen && e.local.Addr() == netip.IPv4Unspecified() && s.ports.Contains(e.local.Port()) {
			dst = append(dst, Listener{Cookie: uint64(e.inode), Port: e.local.Port(), UID: e.uid, Inode: e.inode})
		}
	}
	return dst, nil
}

// owner looks in the IPv6 table for IPv4 connections too: a dual-stack socket
// (Java's, for one) is listed there with mapped addresses.
func (s *procfsSource) owner(local, remote netip.AddrPort) (uint32, error) {
	paths := []string{s.tcp4, s.tcp6}
	if local.Addr().Is6() {
		paths = paths[1:]
	}
	for _, path := range paths {
		table, err := s.read(path)
		if errors.Is(err, unix.ENOENT) && path == s.tcp6 {
			continue // IPv6 is switched off
		}
		if err != nil {
			return 0, err
		}
		for line := range lines(table) {
			e, err := parseLine(line)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			if e.local == local && e.remote == remote && held(e.state, e.inode) {
				return e.uid, nil
			}
		}
	}
	return 0, ErrNotFound
}

// read returns the whole file in memory that the next read overwrites.
func (s *procfsSource) read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	n := 0
	for {
		if n == len(s.buf) {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
		got, err := unix.Read(fd, s.buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if got == 0 {
			return s.buf[:n], nil
		}
		n += got
	}
}

// lines yields each line of a table but the heading and empty ones.
func lines(table []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		_, rest, _ := bytes.Cut(table, []byte{'\n'})
		for len(rest) > 0 {
			var line []byte
			line, rest, _ = bytes.Cut(rest, []byte{'\n'})
			if len(line) > 0 && !yield(line) {
				return
			}
		}
	}
}

// parseLine reads one line of /proc/net/tcp or tcp6:
//
//	sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
func parseLine(line []byte) (e entry, err error) {
	var fields [10][]byte
	rest := line
	for i := range fields {
		rest = bytes.TrimLeft(rest, " ")
		end := bytes.IndexByte(rest, ' ')
		if end < 0 {
			end = len(rest)
		}
		fields[i], rest = rest[:end], rest[end:]
	}
	local, ok1 := parseAddrPort(fields[1])
	remote, ok2 := parseAddrPort(fields[2])
	state, ok3 := parseUint(fields[3], 16, 8)
	uid, ok4 := parseUint(fields[7], 10, 32)
	inode, ok5 := parseUint(fields[9], 10, 64)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return e, fmt.Errorf("line %q is not of the form SL ADDRESS:PORT ADDRESS:PORT STATE ... UID TIMEOUT INODE", line)
	}
	return entry{state: uint8(state), local: local, remote: remote, uid: uint32(uid), inode: uint32(inode)}, nil
}

// parseAddrPort reads HEX:HEX, the address as one or four 32-bit words that are
// each in the machine's byte order.
func parseAddrPort(b []byte) (netip.AddrPort, bool) {
	var words [16]byte
	at := bytes.IndexByte(b, ':')
	if at != 8 && at != 32 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < at; i += 8 {
		word, ok := parseUint(b[i:i+8], 16, 32)
		if !ok {
			return netip.AddrPort{}, false
		}
		binary.NativeEndian.PutUint32(words[i/2:], uint32(word))
	}
	port, ok := parseUint(b[at+1:], 16, 16)
	addr := netip.AddrFrom4([4]byte(words[:4]))
	if at == 32 {
		addr = netip.AddrFrom16(words).Unmap()
	}
	return netip.AddrPortFrom(addr, uint16(port)), ok
}

// parseUint is strconv.ParseUint for bytes: no sign, no prefix, no allocation.
func parseUint(b []byte, base uint64, size int) (uint64, bool) {
	var v uint64
	for _, c := range b {
		d := uint64(255)
		switch {
		case '0' <= c && c <= '9':
			d = uint64(c - '0')
		case 'A' <= c && c <= 'F':
			d = uint64(c-'A') + 10
		case 'a' <= c && c <= 'f':
			d = uint64(c-'a') + 10
		}
		high, low := bits.Mul64(v, base)
		if d >= base || high != 0 || low+d < low {
			return 0, false
		}
		v = low + d
	}
	return v, len(b) > 0 && (size == 64 || v>>size == 0)
}
