package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/socket"
)

// Timing of liveness. A peer that died without a word is noticed SilenceLimit
// after its last byte, below the 15 s that both sides promise. TCP_USER_TIMEOUT
// cannot do this: it also counts the time in which a live peer's window is closed
// (tcp(7)), and an R session that computes for minutes before it reads a result
// does just that.
//
// The side that was dialled has thousands to speak to, and speaks every PacerInterval.
// In between, the other one hears from its kernel that it is there: what a heartbeat is
// to tell is acknowledged. Patience is how long that is enough.
const (
	HeartbeatInterval = 7 * time.Second
	SilenceLimit      = 14 * time.Second
	PacerInterval     = 20 * time.Second // no multiple of HeartbeatInterval, see heard
	Patience          = 2 * SilenceLimit
	// HandshakeLimit bounds the way to TLS, and then again that to Welcome.
	HandshakeLimit = 5 * time.Second
	// ConnectLimit is how long who dials waits for the connection, and TurnLimit for TLS:
	// a side to which thousands dial at once takes them one after the other.
	ConnectLimit = 5 * time.Second
	TurnLimit    = 15 * time.Second
)

// Timing is the liveness timing of one connection; zero fields mean the constants.
type Timing struct {
	Heartbeat time.Duration
	Silence   time.Duration
	// Pacer, if not nil, sends the heartbeats, at its pace.
	Pacer *Pacer
}

// Conn is a connection that carries frames. One goroutine may read; any number
// may write. Close ends both, from any goroutine.
type Conn struct {
	conn    net.Conn // TLS, or the socket itself
	socket  wire     // below conn
	records *records // between the two; nil without TLS
	timing  Timing

	in        []byte // read and not yet parsed: in[start:end]
	start     int
	end       int
	remaining int // bytes of the current Data frame still to come

	writing sync.Mutex
	small   [HeaderSize + 4]byte // guarded by writing: frames without a JSON payload
	room    int                  // guarded by writing: heartbeats that surely fit into the socket's buffer

	beats   *time.Timer // calls beat
	beating atomic.Bool // StartHeartbeat was called
	dialled bool
	paced   bool // by timing.Pacer
	atBeat  func() (spoke bool)
	turn    int // guarded by timing.Pacer, whose it is
	seat    int // the same

	closing sync.Once
	closed  chan struct{}
}

// wire is what carries a connection. *socket.Conn is one.
type wire interface {
	net.Conn
	// HungUp reports whether the other side has closed its end.
	HungUp() bool
	// Unanswered is for how long what was sent has not been acknowledged.
	Unanswered() time.Duration
	// Writable reports whether a small write would not have to wait.
	Writable() bool
}

// Dial connects to the rendezvous at address (host:port), with TLS when config is
// not nil.
func Dial(ctx context.Context, address string, config *tls.Config, timing Timing) (*Conn, error) {
	// The kernel's keepalive is off: heartbeats do its work, and see more.
	dialer := net.Dialer{KeepAlive: -1, Timeout: ConnectLimit}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, TurnLimit)
	defer cancel()
	c, err := secure(ctx, conn, config, tls.Client, timing)
	if err == nil {
		c.dialled = true
	}
	return c, err
}

// Accept makes a Conn of an accepted TCP connection, with TLS when config is not
// nil. It owns conn from here on, and closes it on error.
func Accept(ctx context.Context, conn net.Conn, config *tls.Config, timing Timing) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeLimit)
	defer cancel()
	return secure(ctx, conn, config, tls.Server, timing)
}

// secure puts TLS on conn, as the client or the server, when config is not nil.
func secure(ctx context.Context, conn net.Conn, config *tls.Config, side func(net.Conn, *tls.Config) *tls.Conn, timing Timing) (*Conn, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("the connection with %s is not TCP", conn.RemoteAddr())
	}
	s, err := socket.New(tcp)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if config == nil {
		return newConn(s, s, nil, timing), nil
	}
	r := newRecords(s)
	encrypted := side(r, config)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS with %s: %w", conn.RemoteAddr(), err)
	}
	r.shrink() // of what the handshake took
	return newConn(encrypted, s, r, timing), nil
}

func newConn(conn net.Conn, s wire, r *records, timing Timing) *Conn {
	if timing.Heartbeat == 0 {
		timing.Heartbeat = HeartbeatInterval
	}
	if timing.Silence == 0 {
		timing.Silence = SilenceLimit
	}
	c := &Conn{
		conn: conn, socket: s, records: r, timing: timing,
		in: make([]byte, idleBuffer), closed: make(chan struct{}),
	}
	c.beats = time.AfterFunc(time.Hour, c.beat)
	c.beats.Stop()
	return c
}

// Check says why the connection is no more, nil while it seems to be there. It is
// for whoever reads, while something keeps it from reading on: Next would notice.
// Heartbeats go out meanwhile, and a live peer's kernel acknowledges them.
func (c *Conn) Check() error {
	// A heartbeat's own way and back is no silence, hence the half.
	switch limit := c.timing.Silence - c.timing.Heartbeat/2; {
	case c.socket.HungUp():
		return fmt.Errorf("%s has closed the connection", c.conn.RemoteAddr())
	case c.socket.Unanswered() > limit:
		return fmt.Errorf("nothing acknowledged by %s for %s", c.conn.RemoteAddr(), limit)
	}
	return nil
}

// Close closes the connection; a read or write that is under way returns an error.
func (c *Conn) Close() error {
	var err error
	c.closing.Do(func() {
		close(c.closed)
		c.stopHeartbeat()
		// The socket, not the TLS connection: its Close waits up to 5 s to send a
		// farewell to a peer that may be gone.
		err = c.socket.Close()
	})
	return err
}

const (
	// idleBuffer suffices for the control frames of a parked worker; ten thousand
	// parked workers hold 5 MB of it.
	idleBuffer = 512
	// bulkBuffer takes what the kernel has ready of a bulk transfer at once.
	bulkBuffer = 128 << 10
)

// Next reads the next frame, or the next piece of a Data frame; heartbeats are
// taken in silently. It fails when nothing arrives for the silence limit. The
// payload is valid until the next call.
func (c *Conn) Next() (Frame, error) {
	for {
		if c.remaining > 0 {
			return c.data()
		}
		if err := c.need(HeaderSize); err != nil {
			return Frame{}, err
		}
		t, length, err := parseHeader(c.in[c.start:c.end])
		if err != nil {
			return Frame{}, err
		}
		c.start += HeaderSize
		switch t {
		case Heartbeat:
			c.heard()
			continue
		case Data:
			c.remaining = length
			continue
		}
		if err := c.need(length); err != nil {
			return Frame{}, noEOF(err)
		}
		payload := c.in[c.start : c.start+length]
		c.start += length
		return Frame{Type: t, Payload: payload}, nil
	}
}

func (c *Conn) data() (Frame, error) {
	if c.start == c.end {
		if len(c.in) < bulkBuffer && c.remaining > len(c.in) {
			c.in = make([]byte, bulkBuffer)
			if c.records != nil {
				c.records.grow(bulkBuffer)
			}
		}
		if err := c.need(1); err != nil {
			return Frame{}, noEOF(err)
		}
		c.more()
	}
	n := min(c.remaining, c.end-c.start)
	payload := c.in[c.start : c.start+n]
	c.start += n
	c.remaining -= n
	return Frame{Type: Data, Payload: payload}, nil
}

// need reads until n bytes are there to parse.
func (c *Conn) need(n int) error {
	if c.end-c.start >= n {
		return nil
	}
	if n > len(c.in) {
		grown := make([]byte, n)
		c.end = copy(grown, c.in[c.start:c.end])
		c.in, c.start = grown, 0
	} else if c.start > 0 {
		c.end = copy(c.in, c.in[c.start:c.end])
		c.start = 0
	}
	for c.end < n {
		read, err := c.patientRead(c.in[c.end:])
		c.end += read
		if err != nil && c.end < n {
			if c.end > 0 {
				err = noEOF(err)
			}
			return c.explain(err)
		}
	}
	return nil
}

// more reads what can be had without waiting: TLS hands out one record at a time,
// and a large piece costs whoever takes it less than many small ones.
func (c *Conn) more() {
	for c.records != nil && c.end < min(len(c.in), c.remaining) && c.records.ready() {
		n, err := c.conn.Read(c.in[c.end:])
		c.end += n
		if err != nil {
			return // TLS repeats it at the next read
		}
	}
}

func (c *Conn) explain(err error) error {
	if isTimeout(err) {
		return fmt.Errorf("nothing heard from %s for %s: %w", c.conn.RemoteAddr(), c.timing.Silence, err)
	}
	return err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Shrink gives back the memory of a bulk transfer; called between sessions by the
// reading goroutine.
func (c *Conn) Shrink() {
	if len(c.in) > idleBuffer && c.end-c.start <= idleBuffer {
		small := make([]byte, idleBuffer)
		c.end = copy(small, c.in[c.start:c.end])
		c.in, c.start = small, 0
	}
	if c.records != nil {
		c.records.shrink()
	}
}

// Send writes a frame with a JSON payload.
func (c *Conn) Send(t Type, message any) error {
	frame, err := encode(t, message)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err = c.conn.Write(frame)
	return err
}

// encode makes a frame with a JSON payload.
func encode(t Type, message any) ([]byte, error) {
	if exit, ok := message.(ExitMessage); ok {
		message = exit.bounded() // it quotes what R wrote
	}
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetEscapeHTML(false) // six bytes for each <
	if err := encoder.Encode(message); err != nil {
		return nil, fmt.Errorf("%s frame: %w", t, err)
	}
	payload := bytes.TrimSuffix(encoded.Bytes(), []byte("\n"))
	if len(payload) > MaxControl {
		return nil, fmt.Errorf("%s frame: %d bytes, at most %d fit", t, len(payload), MaxControl)
	}
	frame := make([]byte, HeaderSize+len(payload))
	putHeader(frame, t, len(payload))
	copy(frame[HeaderSize:], payload)
	return frame, nil
}

// SendNumber writes a Reserve, Reserved or Release frame.
func (c *Conn) SendNumber(t Type, number uint32) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.writeSmall(t, binary.BigEndian.AppendUint32(nil, number))
}

// Number is the payload of a Reserve, Reserved or Release frame.
func (f Frame) Number() uint32 { return binary.BigEndian.Uint32(f.Payload) }

// SendEOF writes an EOF frame.
func (c *Conn) SendEOF() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.writeSmall(EOF, nil)
}

func (c *Conn) writeSmall(t Type, payload []byte) error {
	putHeader(c.small[:], t, len(payload))
	n := HeaderSize + copy(c.small[HeaderSize:], payload)
	_, err := c.conn.Write(c.small[:n])
	return err
}

// SendData writes one Data frame. The payload is frame[HeaderSize:], at most
// MaxData bytes; the first HeaderSize bytes are room for the header, so that the
// payload is never copied to make place for it.
func (c *Conn) SendData(frame []byte) error {
	putHeader(frame, Data, len(frame)-HeaderSize)
	write := func() error {
		_, err := c.conn.Write(frame)
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.room = 0
	if c.records == nil || len(frame) <= maxPlaintext {
		return write()
	}
	return c.records.together(write)
}
