package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// fileStamp tells one content of a file from another without reading it. The
// inode changes with every atomic replacement and with Kubernetes' ..data link,
// even within the resolution of the modification time.
type fileStamp struct {
	inode uint64
	size  int64
	mtime unix.Timespec
}

// stamp is that of ca.crt, tls.crt and tls.key; the zero fileStamp is a file
// that cannot be seen.
type stamp [3]fileStamp

func readStamp(dir string) stamp {
	var s stamp
	for i, name := range []string{CAFile, CertFile, KeyFile} {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, name), &st) == nil {
			s[i] = fileStamp{st.Ino, st.Size, st.Mtim}
		}
	}
	return s
}

// current returns the material to use now, after a look at the files if the last
// one is a second ago. It reports outside the lock, so that report may ask the
// Material something.
func (m *Material) current() *generation {
	g, tell, err := m.refresh()
	if tell {
		m.report(err)
	}
	return g
}

func (m *Material) refresh() (g *generation, tell bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if now.Sub(m.checked) < m.every {
		return m.loaded, false, nil
	}
	m.checked = now
	if readStamp(m.dir) == m.stamp {
		return m.loaded, false, nil
	}
	if err := m.load(); err != nil {
		tell = m.reported != err.Error()
		m.reported = err.Error()
		return m.loaded, tell, fmt.Errorf("keep the certificate read before: %w", err)
	}
	m.reported = ""
	return m.loaded, true, nil
}

// load reads the files and puts them to use. The files are not replaced all at
// once: when they changed while they were read, they are read again.
func (m *Material) load() error {
	for try := 0; ; try++ {
		before := readStamp(m.dir)
		g, err := readGeneration(m.dir, m.role, m.now())
		if readStamp(m.dir) != before && try < 3 {
			continue
		}
		if err != nil {
			return err
		}
		if m.loaded != nil {
			g.number = m.loaded.number + 1
		}
		g.server.Time = m.now
		m.loaded, m.stamp = g, before
		return nil
	}
}

func readGeneration(dir string, role Role, now time.Time) (*generation, error) {
	roots, err := readRoots(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	cert, err := readPair(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, err
	}
	if err := checkLeaf(filepath.Join(dir, CertFile), cert, roots, role, now); err != nil {
		return nil, err
	}
	return &generation{cert: cert, roots: roots, server: &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
	}}, nil
}

func readFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s is missing: mount the secret there, or make one with `rendezvous certs`: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("%s cannot be read by user %d: set the volume's fsGroup or the file's owner: %w", path, os.Getuid(), err)
	}
	return b, nil
}

// readRoots reads every certificate of the file: during a rotation it holds the
// old CA's and the new one's.
func readRoots(path string) (*x509.CertPool, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(path, b)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		if !c.IsCA {
			return nil, fmt.Errorf("%s holds the certificate of %q, which is not a CA's: put the CA's own certificate there", path, c.Subject)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

func parseCerts(path string, b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s holds a certificate that cannot be parsed: make it anew: %w", path, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate: it must have a BEGIN CERTIFICATE block", path)
	}
	return certs, nil
}

func readPair(certPath, keyPath string) (tls.Certificate, error) {
	certPEM, err := readFile(certPath)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := readFile(keyPath)
	if err != nil {
		return tls.Certificate{}, err
	}
	if _, err := parseCerts(certPath, certPEM); err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s is not the key of %s: give both of one issue: %w", keyPath, certPath, err)
	}
	return cert, nil
}

var usages = map[Role]struct {
	usage x509.ExtKeyUsage
	name  string
}{
	ServerRole: {x509.ExtKeyUsageServerAuth, "serverAuth"},
	ClientRole: {x509.ExtKeyUsageClientAuth, "clientAuth"},
}

// checkLeaf says in words what crypto/x509 says in codes, most telling first.
func checkLeaf(path string, cert tls.Certificate, roots *x509.CertPool, role Role, now time.Time) error {
	leaf := cert.Leaf
	const stamp = time.RFC3339
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("%s expired at %s: renew it, for example with `rendezvous certs`", path, leaf.NotAfter.Format(stamp))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%s is valid from %s on and it is %s: check the clock", path, leaf.NotBefore.Format(stamp), now.UTC().Format(stamp))
	}
	want := usages[role]
	if role != AnyRole && !slices.Contains(leaf.ExtKeyUsage, want.usage) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return fmt.Errorf("%s lacks the extended key usage %s: use the certificate issued for this side", path, want.name)
	}
	if role == ServerRole {
		if err := leaf.VerifyHostname(ServerName); err != nil {
			return fmt.Errorf("%s lacks the DNS name %q that workers ask for: issue it with that subject alternative name: %w", path, ServerName, err)
		}
	}
	between := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("%s holds an intermediate that cannot be parsed: make it anew: %w", path, err)
		}
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("%s is not signed by the CA of %s beside it: give files of one CA: %w", path, CAFile, err)
	}
	return nil
}
