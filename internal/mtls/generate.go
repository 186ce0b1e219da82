package mtls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CAKeyFile is the CA's private key in Generate's directory. It belongs to
// whoever issues certificates, and into no pod.
const CAKeyFile = "ca.key"

// The directories of Generate, each with the three files of a secret.
const (
	RendezvousDir = "rendezvous"
	WorkerDir     = "worker"
)

// Default validities: a certificate is renewed each year; its CA outlives ten.
const (
	DefaultValidity   = 365 * 24 * time.Hour
	DefaultCAValidity = 10 * 365 * 24 * time.Hour
)

// backdate is how far before now certificates begin, for machines whose clocks
// disagree.
const backdate = time.Hour

// GenerateOptions are the choices of Generate; the zero value has the defaults.
type GenerateOptions struct {
	// Validity of the two certificates, DefaultValidity when 0; never beyond
	// the CA's own end.
	Validity time.Duration
	// CAValidity is a new CA's, DefaultCAValidity when 0.
	CAValidity time.Duration
	// NewCA replaces a CA that is there already. Every certificate of the old
	// one is then refused by those who have the new one's ca.crt.
	NewCA bool

	// WorkerName is the DNS name in the workers' certificate, WorkerName when "".
	WorkerName string

	now func() time.Time // for tests
}

// authority is a CA that can sign.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// Generate makes a private CA in dir (ca.crt, ca.key), unless there is one, and
// issues the two certificates of the runtime: rendezvous/ for the server and
// worker/ for the clients, each with ca.crt, tls.crt and tls.key. Called again
// it issues both anew from the CA that is there. Keys are ECDSA P-256, readable
// by their owner only; each file appears whole or not at all. It fails, without
// touching anything, when only one of the CA's two files is there or the CA has
// expired.
func Generate(dir string, opts GenerateOptions) error {
	if opts.now == nil {
		opts.now = time.Now
	}
	if opts.Validity == 0 {
		opts.Validity = DefaultValidity
	}
	if opts.CAValidity == 0 {
		opts.CAValidity = DefaultCAValidity
	}
	if opts.WorkerName == "" {
		opts.WorkerName = WorkerName
	}
	if opts.Validity < 0 || opts.CAValidity < 0 {
		return fmt.Errorf("validity %v, of the CA %v: give a positive duration, such as 8760h", opts.Validity, opts.CAValidity)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the certificates' directory %s: %w", dir, err)
	}
	ca, err := openCA(dir, opts)
	if err != nil {
		return err
	}
	if err := issue(ca, filepath.Join(dir, RendezvousDir), opts, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "psock-runtime rendezvous"},
		DNSNames:    []string{ServerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return err
	}
	return issue(ca, filepath.Join(dir, WorkerDir), opts, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "psock-runtime worker"},
		DNSNames:    []string{opts.WorkerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// openCA reads the CA of dir, or makes it.
func openCA(dir string, opts GenerateOptions) (*authority, error) {
	certPath, keyPath := filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile)
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	certGone, keyGone := errors.Is(certErr, os.ErrNotExist), errors.Is(keyErr, os.ErrNotExist)
	switch {
	case opts.NewCA || certGone && keyGone:
		return newCA(certPath, keyPath, opts)
	case certErr != nil || keyErr != nil:
		return nil, fmt.Errorf("%s has a CA that cannot be used: bring back both %s and %s, or ask for a new CA: %w",
			dir, CAFile, CAKeyFile, errors.Join(certErr, keyErr))
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s do not belong together: bring back those of one CA, or ask for a new one: %w", certPath, keyPath, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not a CA's certificate: give one, or ask for a new CA", certPath)
	}
	if now := opts.now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("%s expired at %s: ask for a new CA", certPath, pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &authority{cert: pair.Leaf, key: key, pem: certPEM}, nil
}

func newCA(certPath, keyPath string, opts GenerateOptions) (*authority, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "psock-runtime CA"},
		NotBefore:             opts.now().Add(-backdate),
		NotAfter:              opts.now().Add(opts.CAValidity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the CA's certificate back: %w", err)
	}
	ca := &authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}
	if err := writeFile(keyPath, keyPEM, 0o600); err != nil {
		return nil, err
	}
	return ca, writeFile(certPath, ca.pem, 0o644)
}

// issue signs a certificate like template and writes its secret's files to dir.
func issue(ca *authority, dir string, opts GenerateOptions, template *x509.Certificate) error {
	key, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	template.NotBefore = opts.now().Add(-backdate)
	template.NotAfter = opts.now().Add(opts.Validity)
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("sign the certificate of %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the secret's directory %s: %w", dir, err)
	}
	if err := writeFile(filepath.Join(dir, KeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, CertFile), encode("CERTIFICATE", der), 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, CAFile), ca.pem, 0o644)
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return key, encode("PRIVATE KEY", der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writeFile puts the file in place under a temporary name first, so that nobody
// reads half of it; CreateTemp opens it for its owner only, so a key never is
// anybody else's to read.
func writeFile(path string, content []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
