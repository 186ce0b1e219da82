// Package mtls is the mutual TLS of the runtime: certificates read from the
// files of a Kubernetes TLS secret, taken over when they change, and made by
// Generate where no certificate manager is at hand.
//
// Both ends speak TLS 1.3 and prove themselves. The rendezvous has a certificate
// for the name "rendezvous" that is good for servers only, a worker has one for the
// name "worker" that is good for clients only: who steals a worker's key can be a
// worker, and cannot pose as the rendezvous to the other workers.
//
// The reloading is written here, in about a hundred lines: the libraries that do
// it either watch a certificate and its key but never the CA (certwatcher of
// controller-runtime), so that a rotation of the CA needs a restart, or bring
// gRPC along (its advancedtls and pemfile). File watches are not used at all:
// asking for the files' times when a handshake comes is enough, needs no
// goroutine, and sees a Kubernetes secret's ..data link change like any other
// write.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// ServerName is the name in the rendezvous' certificate. It does not depend on
// the address that is dialled: workers find the rendezvous by pod address,
// Service name or an address from outside, and one certificate serves all.
const ServerName = "rendezvous"

// WorkerName is the name in a worker agent's certificate, unless the release has another.
const WorkerName = "worker"

// CheckWorker says why cert is no worker agent's: it lacks the DNS name. That its CA has
// signed it is no sign of that. A CA that serves others signs certificates for theirs, too.
func CheckWorker(cert *x509.Certificate, name string) error {
	if err := cert.VerifyHostname(name); err != nil {
		return fmt.Errorf("the certificate of %q has the DNS names %q and lacks %q, which agents need: issue it again with that subject alternative name, for example with `rendezvous certs`, or name another with --worker-name of the rendezvous",
			cert.Subject.CommonName, cert.DNSNames, name)
	}
	return nil
}

// The files of a directory, named as in a secret of type kubernetes.io/tls that
// carries its CA (cert-manager writes the same three).
const (
	CAFile   = "ca.crt"
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
)

// checkEvery is how often handshakes look at the files, at most: three stat
// calls a second cost nothing, and Kubernetes itself takes up to a minute to
// bring a changed secret into a pod.
const checkEvery = time.Second

// Role says which end of a connection a certificate has to be good for.
type Role int

// The roles. A material without a role may be loaded for either; the wrong one
// then shows at the first handshake only.
const (
	AnyRole Role = iota
	ServerRole
	ClientRole
)

// Option changes what Load does.
type Option func(*Material)

// WithRole makes Load, and each reload, insist on a certificate that is good for
// the role.
func WithRole(r Role) Option { return func(m *Material) { m.role = r } }

// WithReport has report called after each attempt to take over changed files:
// with nil when they are in use, with the reason when they are not and the old
// ones stay. A reason is reported once, however many handshakes meet it. report
// runs within a handshake and must return soon; it may be called concurrently.
func WithReport(report func(error)) Option { return func(m *Material) { m.report = report } }

// Material is a certificate, its key and the CA certificates to verify the other
// end with, kept up to date with their files. Its methods may be called
// concurrently.
type Material struct {
	dir    string
	role   Role
	report func(error)
	now    func() time.Time
	every  time.Duration

	mu       sync.Mutex
	loaded   *generation
	stamp    stamp
	checked  time.Time
	reported string
}

// generation is what one reading of the files gave; it does not change.
type generation struct {
	number uint64
	cert   tls.Certificate
	roots  *x509.CertPool
	server *tls.Config // kept, so that its session ticket keys live as long
}

// Load reads ca.crt, tls.crt and tls.key of dir. It fails, naming the file, what
// is wrong and what to do, when one is missing, unreadable or no PEM, when the
// key is not the certificate's, when the certificate is expired, not yet valid,
// not signed by the CA, or not meant for the role (the server's must carry the
// name "rendezvous").
func Load(dir string, options ...Option) (*Material, error) {
	m := &Material{dir: dir, now: time.Now, every: checkEvery, report: func(error) {}}
	for _, option := range options {
		option(m)
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	m.checked = m.now()
	return m, nil
}

// Register registers a metric, called name, with the time at which the certificate in
// use expires.
func (m *Material) Register(registry prometheus.Registerer, name string) {
	promauto.With(registry).NewGaugeFunc(prometheus.GaugeOpts{
		Name: name, Help: "When the TLS certificate in use expires, in seconds since 1970.",
	}, func() float64 { return float64(m.NotAfter().Unix()) })
}

// NotAfter returns when the certificate in use expires.
func (m *Material) NotAfter() time.Time { return m.current().cert.Leaf.NotAfter }

// ServerConfig returns the rendezvous' TLS configuration. It requires a client
// certificate that the CA signed for clients, and uses for each handshake what
// the files hold then.
func (m *Material) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		Time:       m.now,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return m.current().server, nil
		},
	}
}

// ClientConfig returns a worker's TLS configuration: its own certificate, and
// a server that the CA signed for servers under the name "rendezvous",
// whatever address is dialled. Certificate and CA are those that the files hold
// at the handshake, so one configuration serves for the life of the process.
//
// In TLS 1.3 a client is done before the server has looked at its certificate:
// a server that refuses it shows as an error of the first read, not of the
// handshake.
func (m *Material) ClientConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: ServerName,
		Time:       m.now,
		// The standard verification takes its roots from the configuration,
		// once. It is switched off for verifyServer, which does the same with
		// the roots of now, and which crypto/tls calls for every connection,
		// resumed ones included.
		InsecureSkipVerify: true,
		VerifyConnection:   m.verifyServer,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &m.current().cert, nil
		},
		ClientSessionCache: sessions{m, tls.NewLRUClientSessionCache(sessionCache)},
	}
}

// sessionCache bounds the sessions a worker keeps. All have the one server name,
// so one is in use, and one of the generation before may still be.
const sessionCache = 2

func (m *Material) verifyServer(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("the rendezvous shows no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:         m.current().roots,
		Intermediates: between,
		DNSName:       ServerName,
		CurrentTime:   m.now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("verify the rendezvous' certificate against %s of %s: %w", CAFile, m.dir, err)
	}
	return nil
}

// sessions keeps apart the sessions of each generation: one that was opened with
// a certificate since replaced is not resumed.
type sessions struct {
	m     *Material
	cache tls.ClientSessionCache
}

func (s sessions) key(name string) string { return fmt.Sprintf("%d/%s", s.m.current().number, name) }

func (s sessions) Get(name string) (*tls.ClientSessionState, bool) { return s.cache.Get(s.key(name)) }

func (s sessions) Put(name string, cs *tls.ClientSessionState) { s.cache.Put(s.key(name), cs) }
