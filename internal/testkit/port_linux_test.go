package testkit

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Everybody else who asks gets another port, however often.
func TestPortIsKept(t *testing.T) {
	port := Port(t)
	for range ephemeral(t) {
		ln, err := net.Listen("tcp4", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		got := ln.Addr().(*net.TCPAddr).Port
		ln.Close()
		if got == port {
			t.Fatalf("port %d was given away", port)
		}
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Errorf("%s accepts a connection from %s", address, conn.LocalAddr())
	}
	ln, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

// ephemeral is how many ports the kernel has to give.
func ephemeral(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	ends := strings.Fields(string(text))
	first, _ := strconv.Atoi(ends[0])
	last, err := strconv.Atoi(ends[1])
	if err != nil {
		t.Fatal(err)
	}
	return last - first + 1
}
