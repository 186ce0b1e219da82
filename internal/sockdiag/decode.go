package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// entry is one struct inet_diag_msg.
type entry struct {
	state         uint8
	local, remote netip.AddrPort
	cookie        uint64
	uid, inode    uint32
}

// answerError is an error number that sock_diag answered with.
type answerError struct{ errno unix.Errno }

func (e answerError) Error() string { return "sock_diag refuses: " + e.errno.Error() }
func (e answerError) Unwrap() error { return e.errno }

// message is one netlink message of a datagram.
type message struct {
	kind    uint16
	seq     uint32
	payload []byte
}

// nextMessage splits the first message off a datagram. It fails when the
// datagram is cut off or a length in it makes no sense.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < headerLen {
		return m, nil, fmt.Errorf("sock_diag's answer ends within a header: %d bytes left", len(b))
	}
	length := binary.NativeEndian.Uint32(b)
	if length < headerLen || uint64(length) > uint64(len(b)) {
		return m, nil, fmt.Errorf("sock_diag's answer has a message of %d bytes in %d", length, len(b))
	}
	m.kind = binary.NativeEndian.Uint16(b[4:])
	m.seq = binary.NativeEndian.Uint32(b[8:])
	m.payload = b[headerLen:length]
	next := min((int(length)+3)&^3, len(b)) // messages start at multiples of 4
	return m, b[next:], nil
}

// decodeListeners appends the wildcard listeners of one datagram to dst; done
// means that the dump ends here. Messages with another sequence number answer
// an earlier question that was given up, and are passed over.
func decodeListeners(b []byte, seq uint32, ports Range, dst []Listener) (out []Listener, done bool, err error) {
	if len(b) == 0 {
		return dst, false, fmt.Errorf("sock_diag's answer is empty")
	}
	for len(b) > 0 {
		var m message
		if m, b, err = nextMessage(b); err != nil {
			return dst, false, err
		}
		if m.seq != seq {
			continue
		}
		switch m.kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return dst, true, errnoOf(m)
		case sockDiagByFamily:
			e, err := decodeEntry(m.payload)
			if err != nil {
				return dst, false, err
			}
			// The filter ran in the kernel already; a sandbox that ignores it
			// must not make other services of the pod look like demand.
			if e.state == tcpListen && e.local.Addr() == netip.IPv4Unspecified() && ports.Contains(e.local.Port()) {
				dst = append(dst, Listener{Cookie: e.cookie, Port: e.local.Port(), UID: e.uid, Inode: e.inode})
			}
		}
	}
	return dst, false, nil
}

// decodeOne returns the answer to an exact request, found false when the
// datagram does not hold it.
func decodeOne(b []byte, seq uint32) (e entry, found bool, err error) {
	if len(b) == 0 {
		return e, false, fmt.Errorf("sock_diag's answer is empty")
	}
	for len(b) > 0 {
		var m message
		if m, b, err = nextMessage(b); err != nil {
			return e, false, err
		}
		if m.seq != seq {
			continue
		}
		switch m.kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if err := errnoOf(m); err != nil {
				return e, false, err
			}
			return e, false, fmt.Errorf("sock_diag answers a lookup with nothing")
		case sockDiagByFamily:
			e, err = decodeEntry(m.payload)
			return e, err == nil, err
		}
	}
	return e, false, nil
}

// errnoOf returns the error that an NLMSG_ERROR or NLMSG_DONE carries: a
// negative errno, 0 or nothing at all for none.
func errnoOf(m message) error {
	if len(m.payload) < 4 {
		if m.kind == unix.NLMSG_DONE {
			return nil
		}
		return fmt.Errorf("sock_diag answers with an error of %d bytes, want 4", len(m.payload))
	}
	errno := int32(binary.NativeEndian.Uint32(m.payload))
	if errno == 0 {
		return nil
	}
	return answerError{unix.Errno(-int64(errno))}
}

func decodeEntry(b []byte) (entry, error) {
	if len(b) < entryLen {
		return entry{}, fmt.Errorf("sock_diag's answer has an entry of %d bytes, want %d", len(b), entryLen)
	}
	src, dst := netip.AddrFrom4([4]byte(b[8:12])), netip.AddrFrom4([4]byte(b[24:28]))
	if b[0] == unix.AF_INET6 {
		src, dst = netip.AddrFrom16([16]byte(b[8:24])).Unmap(), netip.AddrFrom16([16]byte(b[24:40])).Unmap()
	}
	return entry{
		state:  b[1],
		local:  netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[4:])),
		remote: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[6:])),
		cookie: uint64(binary.NativeEndian.Uint32(b[44:])) | uint64(binary.NativeEndian.Uint32(b[48:]))<<32,
		uid:    binary.NativeEndian.Uint32(b[64:]),
		inode:  binary.NativeEndian.Uint32(b[68:]),
	}, nil
}
