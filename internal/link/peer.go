package link

import (
	"crypto/tls"
	"crypto/x509"
	"net"
)

// RemoteAddr is the other side's address.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// LocalAddr is this side's address.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// PeerCertificate is the other side's certificate, which TLS has verified, nil without TLS.
func (c *Conn) PeerCertificate() *x509.Certificate {
	encrypted, ok := c.conn.(*tls.Conn)
	if !ok {
		return nil
	}
	if chain := encrypted.ConnectionState().PeerCertificates; len(chain) > 0 {
		return chain[0]
	}
	return nil
}
