package link

import (
	"net"
	"time"
)

// StartHeartbeat begins the heartbeats, after the handshake: before it the other
// side is a stranger, which HandshakeLimit bounds.
func (c *Conn) StartHeartbeat() {
	if c.beating.Swap(true) {
		return
	}
	if c.paced {
		c.timing.Pacer.join(c)
		return
	}
	c.beats.Reset(c.timing.Heartbeat)
}

func (c *Conn) stopHeartbeat() {
	if c.timing.Pacer != nil {
		c.timing.Pacer.leave(c)
	}
	c.beats.Stop()
}

// Bears says for how long the other side bears to hear nothing: whether the Pacer, if
// there is one, is fast enough. It is called before StartHeartbeat.
func (c *Conn) Bears(silence time.Duration) {
	c.paced = c.timing.Pacer != nil && silence >= c.timing.Pacer.interval+SilenceLimit-HeartbeatInterval
}

// AtBeat has speak called at each heartbeat, which is left out when speak has sent
// something. It is called before StartHeartbeat.
func (c *Conn) AtBeat(speak func() (spoke bool)) { c.atBeat = speak }

// heard notes the other side's heartbeat. The side that has dialled answers it, in
// another goroutine: whoever reads must never wait for a write. So those who were spoken
// to together go on to speak together, and cost whom they speak to one wait for news
// instead of one each, which was a third of it all. PacerInterval is such that an answer
// comes before a heartbeat that would be due at the same time.
func (c *Conn) heard() {
	if c.dialled && c.beating.Load() {
		c.beats.Reset(0)
	}
}

// Probe sends a heartbeat, unless it would have to wait. The kernel of a process that has
// ended refuses it, and then Next fails.
func (c *Conn) Probe() { c.sayHeartbeatNow() }

func (c *Conn) beat() {
	if c.isClosed() {
		return
	}
	if c.atBeat == nil || !c.atBeat() {
		c.sayHeartbeat()
	}
	c.beats.Reset(c.timing.Heartbeat)
}

func (c *Conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// sayHeartbeat writes one, unless a write is under way: that says the same, and if it
// is stuck, the other side is not reading and does not wait for us either.
func (c *Conn) sayHeartbeat() {
	if c.writing.TryLock() {
		defer c.writing.Unlock()
		c.writeHeartbeat()
	}
}

// sayHeartbeatNow is sayHeartbeat that never waits. One that has much to read of ours
// needs no heartbeat.
func (c *Conn) sayHeartbeatNow() {
	if !c.writing.TryLock() {
		return
	}
	defer c.writing.Unlock()
	if c.room == 0 {
		if !c.socket.Writable() {
			return
		}
		// A third of the buffer is free, 5 KB at least; a heartbeat takes 1.3 KB of it.
		c.room = 4
	}
	c.room--
	c.writeHeartbeat()
}

func (c *Conn) writeHeartbeat() {
	if err := c.writeSmall(Heartbeat, nil); err != nil {
		c.Close()
	}
}

// TrySend is Send for what can wait: it does nothing while a write is under way or would
// wait for the other side to read, and closes the connection when its own fails.
func (c *Conn) TrySend(t Type, message any) (sent bool) {
	frame, err := encode(t, message)
	if err != nil || !c.writing.TryLock() {
		return false
	}
	defer c.writing.Unlock()
	if !c.socket.Writable() {
		return false
	}
	if _, err := c.conn.Write(frame); err != nil {
		c.Close()
		return false
	}
	return true
}

// patientRead reads what comes within the silence limit. To the side that has dialled
// it is not silence while what it sends is acknowledged, up to a limit.
func (c *Conn) patientRead(p []byte) (n int, err error) {
	limit := c.timing.Silence
	for wait, waited := limit, time.Duration(0); ; {
		if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return 0, err
		}
		n, err := c.conn.Read(p)
		if n > 0 || !c.dialled || !isTimeout(err) {
			return n, err
		}
		waited += wait
		unanswered := c.socket.Unanswered()
		if wait = min(limit-unanswered, 2*limit-waited); wait <= 0 {
			return n, err
		}
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}
