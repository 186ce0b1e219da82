package sockdiag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// answer builds one netlink message.
func answer(kind uint16, seq uint32, payload []byte) []byte {
	b := make([]byte, headerLen, headerLen+len(payload))
	binary.NativeEndian.PutUint32(b, uint32(headerLen+len(payload)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint32(b[8:], seq)
	return append(b, payload...)
}

func listening(port uint16, addr [4]byte) []byte {
	b := make([]byte, entryLen)
	b[0], b[1] = unix.AF_INET, tcpListen
	binary.BigEndian.PutUint16(b[4:], port)
	copy(b[8:], addr[:])
	binary.NativeEndian.PutUint32(b[44:], 0x11111111)
	binary.NativeEndian.PutUint32(b[48:], 0x22222222)
	binary.NativeEndian.PutUint32(b[64:], 1000)
	binary.NativeEndian.PutUint32(b[68:], 77)
	return b
}

func errno(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-n)) }

func TestDecodeListeners(t *testing.T) {
	ports := Range{11000, 11999}
	good := answer(sockDiagByFamily, 5, listening(11562, [4]byte{}))
	want := Listener{Cookie: 0x2222222211111111, Port: 11562, UID: 1000, Inode: 77}
	for name, c := range map[string]struct {
		in    []byte
		want  []Listener
		done  bool
		wrong string
	}{
		"one":                  {in: good, want: []Listener{want}},
		"one and the end":      {in: append(bytes.Clone(good), answer(unix.NLMSG_DONE, 5, errno(0))...), want: []Listener{want}, done: true},
		"an older answer":      {in: answer(sockDiagByFamily, 4, listening(11562, [4]byte{}))},
		"a loopback listener":  {in: answer(sockDiagByFamily, 5, listening(11562, [4]byte{127, 0, 0, 1}))},
		"out of range":         {in: answer(sockDiagByFamily, 5, listening(12000, [4]byte{}))},
		"refused":              {in: answer(unix.NLMSG_ERROR, 5, errno(int32(unix.EPERM))), done: true, wrong: "operation not permitted"},
		"a failed dump":        {in: answer(unix.NLMSG_DONE, 5, errno(int32(unix.ENOMEM))), done: true, wrong: "cannot allocate"},
		"an error cut off":     {in: answer(unix.NLMSG_ERROR, 5, []byte{1}), done: true, wrong: "1 bytes"},
		"nothing":              {wrong: "empty"},
		"a header cut off":     {in: good[:10], wrong: "within a header"},
		"a message cut off":    {in: good[:40], wrong: "88 bytes in 40"},
		"a short entry":        {in: answer(sockDiagByFamily, 5, make([]byte, 20)), wrong: "20 bytes, want 72"},
		"a length below 16":    {in: make([]byte, 32), wrong: "0 bytes in 32"},
		"a kind from nowhere":  {in: answer(99, 5, []byte{1, 2, 3, 4})},
		"an unaligned message": {in: append(append(answer(99, 5, []byte{1}), 0, 0, 0), good...), want: []Listener{want}},
	} {
		t.Run(name, func(t *testing.T) {
			got, done, err := decodeListeners(c.in, 5, ports, nil)
			if !reflect.DeepEqual(got, c.want) || done != c.done {
				t.Errorf("%+v, done %v; want %+v, %v", got, done, c.want, c.done)
			}
			if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("error %v, want one with %q", err, c.wrong)
			}
		})
	}
	_, _, err := decodeListeners(answer(unix.NLMSG_ERROR, 5, errno(int32(unix.ENOENT))), 5, ports, nil)
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v does not wrap ENOENT", err)
	}
}

func TestParseLine(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Log("the addresses below are those of a little-endian machine")
		return
	}
	for in, want := range map[string]entry{
		"   0: 00000000:2D2A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0 0 10 0": {
			state: tcpListen, local: netip.MustParseAddrPort("0.0.0.0:11562"),
			remote: netip.MustParseAddrPort("0.0.0.0:0"), uid: 1000, inode: 31337},
		"1: 0100007F:0016 0200A8C0:FFFF 01 0:0 0:0 0 4294967295 0 4294967295": {
			state: 1, local: netip.MustParseAddrPort("127.0.0.1:22"),
			remote: netip.MustParseAddrPort("192.168.0.2:65535"), uid: 4294967295, inode: 4294967295},
		"1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000001000000:0001 01 0:0 0:0 0 0 0 9": {
			state: 1, local: netip.MustParseAddrPort("127.0.0.1:22"),
			remote: netip.MustParseAddrPort("[::1]:1"), inode: 9},
	} {
		if got, err := parseLine([]byte(in)); err != nil || got != want {
			t.Errorf("parseLine(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0:", "0: 0:0 0:0 0A 0:0 0:0 0 0 0 1",
		"0: 0100007F:10016 00000000:0000 0A 0:0 0:0 0 0 0 1", "0: 0100007G:0016 00000000:0000 0A 0:0 0:0 0 0 0 1",
		"0: 0100007F:0016 00000000:0000 10A 0:0 0:0 0 0 0 1", "0: 0100007F:0016 00000000:0000 0A 0:0 0:0 0 4294967296 0 1",
		"0: 0100007F:0016 00000000:0000 0A 0:0 0:0 0 0 0 99999999999999999999999", "0: 0100007F:0016 00000000:0000 0A 0:0 0:0 0 -1 0 1"} {
		if got, err := parseLine([]byte(in)); err == nil {
			t.Errorf("parseLine(%q) = %+v, want an error", in, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(answer(sockDiagByFamily, 5, listening(11562, [4]byte{})))
	f.Add(append(answer(sockDiagByFamily, 5, listening(11562, [4]byte{})), answer(unix.NLMSG_DONE, 5, errno(0))...))
	f.Add(answer(unix.NLMSG_ERROR, 5, errno(int32(unix.ENOENT))))
	f.Add([]byte{})
	ports := Range{11000, 11999}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, done, err := decodeListeners(b, 5, ports, nil)
		for _, l := range got {
			if !ports.Contains(l.Port) {
				t.Errorf("a port out of range: %+v", l)
			}
		}
		if len(got)*entryLen > len(b) || len(b) == 0 && err == nil {
			t.Errorf("%d listeners, done %v, %v from %d bytes", len(got), done, err, len(b))
		}
		if e, found, err := decodeOne(b, 5); found && err != nil {
			t.Errorf("%+v with %v", e, err)
		}
	})
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("   0: 00000000:2D2A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0 0 10 0"))
	f.Add([]byte("1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000001000000:0001 01 0:0 0:0 0 0 0 9"))
	if table, err := os.ReadFile("/proc/thread-self/net/tcp"); err == nil {
		for line := range lines(table) {
			f.Add(bytes.Clone(line))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseLine(b)
		if err == nil && (!e.local.IsValid() || !e.remote.IsValid()) {
			t.Errorf("parseLine(%q) = %+v without an error", b, e)
		}
		for line := range lines(b) {
			if len(line) == 0 || bytes.IndexByte(line, '\n') >= 0 {
				t.Errorf("line %q of %q", line, b)
			}
		}
	})
}

// BenchmarkListeners asks with three R-like listeners, first alone, then beside
// 1,000 established connections (2,000 sockets).
func BenchmarkListeners(b *testing.B) {
	for range 3 {
		ln, err := net.Listen("tcp4", "0.0.0.0:0")
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
	}
	nl, err := openNetlink(anyPort)
	if err != nil {
		b.Fatal(err)
	}
	defer nl.close()
	both := func(name string) {
		for kind, p := range map[string]*Prober{"netlink": {src: nl}, "procfs": {src: newProcfs(anyPort)}} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				var ls []Listener
				for b.Loop() {
					if ls, err = p.Listeners(ls[:0]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
	both("alone")
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	for range 1000 {
		dial(b, ln.Addr().String())
		conn, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
	}
	both("1000-connections")
}
