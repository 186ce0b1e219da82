package link

// StartHeartbeat begins the heartbeats, after the handshake: before it the other
// side is a stranger, which HandshakeLimit bounds.
func (c *Conn) StartHeartbeat() { c.beats.Reset(c.timing.Heartbeat) }

// AtBeat has speak called at each heartbeat, which is left out when speak has sent
// something. It is called before StartHeartbeat.
func (c *Conn) AtBeat(speak func() (spoke bool)) { c.atBeat = speak }

func (c *Conn) beat() {
	select {
	case <-c.closed:
		return
	default:
	}
	spoke := c.atBeat != nil && c.atBeat()
	// A write that is under way says the same, and if it is stuck, the other side
	// is not reading and does not wait for us either.
	if !spoke && c.writing.TryLock() {
		err := c.writeSmall(Heartbeat, nil)
		c.writing.Unlock()
		if err != nil {
			c.Close()
			return
		}
	}
	c.beats.Reset(c.timing.Heartbeat)
}

// TrySend is Send for what can wait: it does nothing while a write is under way, and
// closes the connection when its own fails.
func (c *Conn) TrySend(t Type, message any) (sent bool) {
	frame, err := encode(t, message)
	if err != nil || !c.writing.TryLock() {
		return false
	}
	defer c.writing.Unlock()
	if _, err := c.conn.Write(frame); err != nil {
		c.Close()
		return false
	}
	return true
}
