package relay

// EndsInner reports whether pieces, of the middle of a call that begins so, end with a call.
func EndsInner(begin []byte, pieces ...[]byte) bool {
	c := inner{begin: begin[:formatBytes]}
	for _, p := range pieces {
		c.follow(p)
	}
	return c.ended()
}
