package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// generate makes a CA and its certificates in a new directory.
func generate(t *testing.T, opts GenerateOptions) string {
	t.Helper()
	dir := t.TempDir()
	if err := Generate(dir, opts); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, dir string, options ...Option) *Material {
	t.Helper()
	m, err := Load(dir, options...)
	if err != nil {
		t.Fatal(err)
	}
	m.every = 0 // each handshake looks at the files
	return m
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = writeFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func copySecret(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range []string{CAFile, CertFile, KeyFile} {
		copyFile(t, filepath.Join(from, name), filepath.Join(to, name))
	}
}

// serve echoes on a real TLS listener until the test ends; refused receives the
// error of each handshake that fails.
func serve(t *testing.T, config *tls.Config) (addr string, refused chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused = make(chan error, 100)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				conn := tls.Server(raw, config)
				defer conn.Close()
				if err := conn.Handshake(); err != nil {
					refused <- err
					return
				}
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String(), refused
}

// talk sends one byte and reads it back: the handshake is over for both ends
// then.
func talk(conn *tls.Conn) error {
	if _, err := conn.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func dial(t *testing.T, addr string, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return conn, talk(conn)
}

func mustDial(t *testing.T, addr string, config *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := dial(t, addr, config)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// setup is a rendezvous that listens and a worker, of one CA.
func setup(t *testing.T, options ...Option) (dir, addr string, refused chan error, worker *Material) {
	t.Helper()
	dir = generate(t, GenerateOptions{})
	server := load(t, filepath.Join(dir, RendezvousDir), append(options, WithRole(ServerRole))...)
	addr, refused = serve(t, server.ServerConfig())
	return dir, addr, refused, load(t, filepath.Join(dir, WorkerDir), WithRole(ClientRole))
}

func TestBothEndsProveThemselves(t *testing.T) {
	_, addr, _, worker := setup(t)
	conn := mustDial(t, addr, worker.ClientConfig())
	state := conn.ConnectionState()
	if state.Version != tls.VersionTLS13 || state.PeerCertificates[0].Subject.CommonName != "psock-runtime rendezvous" {
		t.Errorf("version %x with %v", state.Version, state.PeerCertificates[0].Subject)
	}
	if left := time.Until(worker.NotAfter()); left < DefaultValidity-time.Hour || left > DefaultValidity {
		t.Errorf("the certificate is good for %v, want a year", left)
	}
}

func TestSessionsResume(t *testing.T) {
	dir, addr, _, worker := setup(t)
	config := worker.ClientConfig()
	mustDial(t, addr, config)
	if !mustDial(t, addr, config).ConnectionState().DidResume {
		t.Error("the second connection does not resume the first's session")
	}
	if err := Generate(dir, GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	if mustDial(t, addr, config).ConnectionState().DidResume {
		t.Error("a session goes on with a certificate that has been replaced")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	dir, addr, refused, worker := setup(t)
	foreign := load(t, filepath.Join(generate(t, GenerateOptions{}), WorkerDir))
	rendezvousAsWorker := load(t, filepath.Join(dir, RendezvousDir))
	bare := worker.ClientConfig()
	bare.GetClientCertificate = nil
	old := worker.ClientConfig()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	// Foreign workers that do not care who the server is.
	careless := foreign.ClientConfig()
	careless.VerifyConnection = nil
	for name, c := range map[string]struct {
		config     *tls.Config
		worker, at string // what either end says
	}{
		"another CA's worker":           {foreign.ClientConfig(), "verify the rendezvous' certificate", "bad certificate"},
		"another CA's careless worker":  {careless, "unknown certificate authority", "unknown authority"},
		"no certificate":                {bare, "certificate required", "didn't provide a certificate"},
		"the rendezvous' as a worker's": {rendezvousAsWorker.ClientConfig(), "bad certificate", "incompatible key usage"},
		"TLS 1.2":                       {old, "protocol version", "unsupported versions"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := dial(t, addr, c.config); err == nil || !strings.Contains(err.Error(), c.worker) {
				t.Errorf("the worker's error is %v, want %q", err, c.worker)
			}
			if err := <-refused; !strings.Contains(err.Error(), c.at) {
				t.Errorf("the rendezvous' error is %v, want %q", err, c.at)
			}
		})
	}
	mustDial(t, addr, worker.ClientConfig())
}

// Agents are told from others whose certificates are of the same CA. Those that releases
// before this check have made have no name.
func TestCheckWorker(t *testing.T) {
	for name, c := range map[string]struct {
		has  []string
		want string // "": it is one
	}{
		"worker":              {[]string{WorkerName}, ""},
		"one of several":      {[]string{"a", WorkerName}, ""},
		"none":                {nil, `has the DNS names [] and lacks "worker"`},
		"the rendezvous'":     {[]string{ServerName}, `has the DNS names ["rendezvous"] and lacks "worker"`},
		"a longer one":        {[]string{"worker.example.com"}, "rendezvous certs"},
		"a wildcard of names": {[]string{"*.example.com"}, "--worker-name"},
	} {
		cert := &x509.Certificate{Subject: pkix.Name{CommonName: WorkerName}, DNSNames: c.has}
		err := CheckWorker(cert, WorkerName)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A worker's key must not do for a false rendezvous.
func TestWorkerCannotPoseAsRendezvous(t *testing.T) {
	dir := generate(t, GenerateOptions{})
	worker := load(t, filepath.Join(dir, WorkerDir))
	addr, _ := serve(t, worker.ServerConfig())
	if _, err := dial(t, addr, worker.ClientConfig()); err == nil || !strings.Contains(err.Error(), "rendezvous") {
		t.Errorf("%v, want a refusal", err)
	}
	// Not even if it carried the name.
	var bad x509.CertificateInvalidError
	ca, err := openCA(dir, GenerateOptions{now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	named := &x509.Certificate{DNSNames: []string{ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if err := issue(ca, filepath.Join(dir, WorkerDir), GenerateOptions{now: time.Now, Validity: time.Hour}, named); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, addr, worker.ClientConfig()); !errors.As(err, &bad) || bad.Reason != x509.IncompatibleUsage {
		t.Errorf("%v, want a refusal for the key usage", err)
	}
}

func TestServerNameDoesNotDependOnTheAddress(t *testing.T) {
	_, addr, _, worker := setup(t)
	_, port, _ := net.SplitHostPort(addr)
	mustDial(t, net.JoinHostPort("localhost", port), worker.ClientConfig())
}

func TestExpiredWhileRunning(t *testing.T) {
	_, addr, refused, worker := setup(t)
	config := worker.ClientConfig()
	mustDial(t, addr, config)
	config.Time = func() time.Time { return time.Now().Add(2 * DefaultValidity) }
	worker.now = config.Time
	if _, err := dial(t, addr, config); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v, want it expired", err)
	}
	<-refused
}

func TestReloadWhileConnectionsRun(t *testing.T) {
	reports := make(chan error, 10)
	dir, addr, _, worker := setup(t, WithReport(func(err error) { reports <- err }))
	running := mustDial(t, addr, worker.ClientConfig())
	before := running.ConnectionState().PeerCertificates[0].SerialNumber
	if err := Generate(dir, GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	fresh := mustDial(t, addr, worker.ClientConfig())
	if before.Cmp(fresh.ConnectionState().PeerCertificates[0].SerialNumber) == 0 {
		t.Error("a new connection meets the old certificate")
	}
	if err := <-reports; err != nil {
		t.Errorf("reported %v", err)
	}
	if err := talk(running); err != nil {
		t.Errorf("the connection that ran: %v", err)
	}
}

// A CA is replaced in three steps: both trusted, then new certificates, then the
// old one dropped. Nothing is restarted, no step refuses anybody.
func TestRotationOfTheCA(t *testing.T) {
	dir, addr, refused, worker := setup(t)
	config := worker.ClientConfig()
	next := generate(t, GenerateOptions{})
	stranger := load(t, filepath.Join(generate(t, GenerateOptions{}), WorkerDir))
	old := t.TempDir()
	copySecret(t, filepath.Join(dir, WorkerDir), old)
	oldWorker := load(t, old)

	var bundle []byte
	for _, d := range []string{dir, next} {
		b, err := os.ReadFile(filepath.Join(d, CAFile))
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, b...)
	}
	for _, side := range []string{RendezvousDir, WorkerDir} {
		if err := writeFile(filepath.Join(dir, side, CAFile), bundle, 0o600); err != nil {
			t.Fatal(err)
		}
		mustDial(t, addr, config)
	}
	for _, side := range []string{WorkerDir, RendezvousDir} {
		for _, file := range []string{KeyFile, CertFile} {
			copyFile(t, filepath.Join(next, side, file), filepath.Join(dir, side, file))
			mustDial(t, addr, config)
		}
	}
	for _, side := range []string{RendezvousDir, WorkerDir} {
		copyFile(t, filepath.Join(next, CAFile), filepath.Join(dir, side, CAFile))
		mustDial(t, addr, config)
	}
	careless := oldWorker.ClientConfig()
	careless.VerifyConnection = nil
	for name, c := range map[string]*tls.Config{"the old CA's": careless, "a stranger's": stranger.ClientConfig()} {
		if _, err := dial(t, addr, c); err == nil {
			t.Errorf("%s worker is let in", name)
		}
		<-refused
	}
}

func TestHalfWrittenFileKeepsTheOld(t *testing.T) {
	reports := make(chan error, 10)
	dir, addr, _, worker := setup(t, WithReport(func(err error) { reports <- err }))
	path := filepath.Join(dir, RendezvousDir, CertFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		mustDial(t, addr, worker.ClientConfig())
	}
	if err := <-reports; err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("reported %v, want it to name %s", err, path)
	}
	if len(reports) != 0 {
		t.Errorf("reported again: %v", <-reports)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustDial(t, addr, worker.ClientConfig())
	if err := <-reports; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reported %v, want that the file is gone", err)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	mustDial(t, addr, worker.ClientConfig())
	if err := <-reports; err != nil {
		t.Errorf("reported %v, want the repair", err)
	}
}

// Kubernetes mounts a secret as links through ..data, and swaps that.
func TestKubernetesSecretSwap(t *testing.T) {
	dir := generate(t, GenerateOptions{})
	mount := t.TempDir()
	put := func(version string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(mount, version), 0o755); err != nil {
			t.Fatal(err)
		}
		copySecret(t, filepath.Join(dir, WorkerDir), filepath.Join(mount, version))
		err := errors.Join(os.Symlink(version, filepath.Join(mount, "..tmp")),
			os.Rename(filepath.Join(mount, "..tmp"), filepath.Join(mount, "..data")))
		if err != nil {
			t.Fatal(err)
		}
	}
	put("..v1")
	for _, name := range []string{CAFile, CertFile, KeyFile} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(mount, name)); err != nil {
			t.Fatal(err)
		}
	}
	m := load(t, mount)
	before := m.current().cert.Leaf.SerialNumber
	if m.current().cert.Leaf.SerialNumber.Cmp(before) != 0 {
		t.Error("the certificate changed on its own")
	}
	if err := Generate(dir, GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	put("..v2")
	if m.current().cert.Leaf.SerialNumber.Cmp(before) == 0 {
		t.Error("the swap went unseen")
	}
}

func TestFilesAreLookedAtOnceASecond(t *testing.T) {
	dir := generate(t, GenerateOptions{})
	m := load(t, filepath.Join(dir, WorkerDir))
	now := time.Now()
	m.every, m.now = checkEvery, func() time.Time { return now }
	before := m.current()
	if err := Generate(dir, GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	now = m.checked.Add(checkEvery - 1)
	if m.current() != before {
		t.Error("looked within the second")
	}
	now = m.checked.Add(checkEvery)
	if m.current() == before {
		t.Error("did not look after a second")
	}
}
