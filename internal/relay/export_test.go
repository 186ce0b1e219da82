package relay

// EndsInner reports whether pieces, of the middle of a call, end with a call.
func EndsInner(xdr bool, pieces ...[]byte) bool {
	var c inner
	for _, p := range pieces {
		c.follow(p, xdr)
	}
	return c.ended()
}
