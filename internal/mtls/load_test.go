package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadSaysWhatIsWrong(t *testing.T) {
	good := generate(t, GenerateOptions{})
	other := generate(t, GenerateOptions{})
	lastYear := func() time.Time { return time.Now().Add(-2 * DefaultValidity) }
	past := generate(t, GenerateOptions{now: lastYear})
	future := generate(t, GenerateOptions{now: func() time.Time { return time.Now().Add(48 * time.Hour) }})
	file := func(dir, side, name string) string { return filepath.Join(dir, side, name) }
	for name, c := range map[string]struct {
		from string
		role Role
		with map[string]string // file to the path it is copied from, "" removes it
		text map[string]string // file to what it holds
		want []string
	}{
		"no CA":              {from: good, with: map[string]string{CAFile: ""}, want: []string{CAFile, "is missing", "rendezvous certs"}},
		"no certificate":     {from: good, with: map[string]string{CertFile: ""}, want: []string{CertFile, "is missing"}},
		"no key":             {from: good, with: map[string]string{KeyFile: ""}, want: []string{KeyFile, "is missing"}},
		"an empty CA":        {from: good, text: map[string]string{CAFile: ""}, want: []string{CAFile, "no PEM certificate"}},
		"a broken block":     {from: good, text: map[string]string{CertFile: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, want: []string{CertFile, "cannot be parsed"}},
		"no PEM key":         {from: good, text: map[string]string{KeyFile: "key"}, want: []string{KeyFile, "is not the key of"}},
		"another key":        {from: good, with: map[string]string{KeyFile: file(other, WorkerDir, KeyFile)}, want: []string{KeyFile, "is not the key of", CertFile}},
		"another CA":         {from: good, with: map[string]string{CAFile: file(other, WorkerDir, CAFile)}, want: []string{CertFile, "is not signed by the CA of ca.crt"}},
		"a leaf as CA":       {from: good, with: map[string]string{CAFile: file(good, WorkerDir, CertFile)}, want: []string{CAFile, "not a CA's"}},
		"expired":            {from: past, want: []string{CertFile, "expired at", "renew it"}},
		"not yet valid":      {from: future, want: []string{CertFile, "valid from", "clock"}},
		"a worker as server": {from: good, role: ServerRole, want: []string{CertFile, "lacks the extended key usage serverAuth"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			copySecret(t, filepath.Join(c.from, WorkerDir), dir)
			for name, from := range c.with {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				if from != "" {
					copyFile(t, from, filepath.Join(dir, name))
				}
			}
			for name, text := range c.text {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Load(dir, WithRole(c.role))
			if err == nil {
				t.Fatal("loaded")
			}
			for _, want := range append(c.want, dir) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// A file that may not be read: a directory in its place fails for root as well.
func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	copySecret(t, filepath.Join(generate(t, GenerateOptions{}), WorkerDir), dir)
	path := filepath.Join(dir, KeyFile)
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), path+" cannot be read by user") {
		t.Errorf("%v, want one that names %s", err, path)
	}
}

func TestServerNeedsItsName(t *testing.T) {
	dir := generate(t, GenerateOptions{})
	ca, err := openCA(dir, GenerateOptions{now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	opts := GenerateOptions{now: time.Now, Validity: time.Hour}
	side := filepath.Join(dir, RendezvousDir)
	if err := issue(ca, side, opts, &x509.Certificate{DNSNames: []string{"elsewhere"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(side, WithRole(ServerRole)); err == nil || !strings.Contains(err.Error(), `lacks the DNS name "rendezvous"`) {
		t.Errorf("%v, want that the name is missing", err)
	}
}

func TestGenerateFiles(t *testing.T) {
	dir := generate(t, GenerateOptions{Validity: time.Hour})
	for path, mode := range map[string]os.FileMode{
		CAFile: 0o644, CAKeyFile: 0o600,
		"rendezvous/ca.crt": 0o644, "rendezvous/tls.crt": 0o644, "rendezvous/tls.key": 0o600,
		"worker/ca.crt": 0o644, "worker/tls.crt": 0o644, "worker/tls.key": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, info, err, mode)
		}
	}
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(all) != 4 {
		t.Errorf("%v, %v; want two files, two directories, and nothing temporary", all, err)
	}
	for side, usage := range map[string]x509.ExtKeyUsage{
		RendezvousDir: x509.ExtKeyUsageServerAuth, WorkerDir: x509.ExtKeyUsageClientAuth,
	} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, side, CertFile), filepath.Join(dir, side, KeyFile))
		if err != nil {
			t.Fatal(err)
		}
		leaf := pair.Leaf
		if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != usage || leaf.IsCA {
			t.Errorf("%s: usage %v, CA %v", side, leaf.ExtKeyUsage, leaf.IsCA)
		}
		if got := leaf.NotAfter.Sub(leaf.NotBefore); got != time.Hour+backdate {
			t.Errorf("%s: valid for %v, want an hour and the backdating", side, got)
		}
		if leaf.PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("%s: %v key", side, leaf.PublicKeyAlgorithm)
		}
	}
}

func TestGenerateKeepsTheCA(t *testing.T) {
	dir := generate(t, GenerateOptions{})
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ca, key, leaf := read(CAFile), read(CAKeyFile), read("worker/tls.crt")
	if err := Generate(dir, GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	if read(CAFile) != ca || read(CAKeyFile) != key || read("worker/tls.crt") == leaf {
		t.Error("want the same CA and another certificate")
	}
	if err := Generate(dir, GenerateOptions{NewCA: true}); err != nil {
		t.Fatal(err)
	}
	if read(CAFile) == ca || read("worker/ca.crt") != read(CAFile) {
		t.Error("want another CA, and the certificates of that")
	}
	load(t, filepath.Join(dir, WorkerDir), WithRole(ClientRole))
}

func TestGenerateNeverOutlivesTheCA(t *testing.T) {
	dir := generate(t, GenerateOptions{CAValidity: time.Hour})
	m := load(t, filepath.Join(dir, WorkerDir))
	if left := time.Until(m.NotAfter()); left > time.Hour {
		t.Errorf("good for %v, the CA for an hour", left)
	}
	later := GenerateOptions{now: func() time.Time { return time.Now().Add(2 * time.Hour) }}
	if err := Generate(dir, later); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v, want that the CA expired", err)
	}
}

func TestGenerateRefuses(t *testing.T) {
	one := generate(t, GenerateOptions{})
	if err := os.Remove(filepath.Join(one, CAKeyFile)); err != nil {
		t.Fatal(err)
	}
	mixed := generate(t, GenerateOptions{})
	copyFile(t, filepath.Join(generate(t, GenerateOptions{}), CAKeyFile), filepath.Join(mixed, CAKeyFile))
	leaf := generate(t, GenerateOptions{})
	copyFile(t, filepath.Join(leaf, "worker/tls.crt"), filepath.Join(leaf, CAFile))
	copyFile(t, filepath.Join(leaf, "worker/tls.key"), filepath.Join(leaf, CAKeyFile))
	inTheWay := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir  string
		opts GenerateOptions
		want string
	}{
		"half a CA":         {one, GenerateOptions{}, "bring back both"},
		"two CAs' halves":   {mixed, GenerateOptions{}, "do not belong together"},
		"no CA's":           {leaf, GenerateOptions{}, "not a CA's certificate"},
		"negative validity": {t.TempDir(), GenerateOptions{Validity: -1}, "positive duration"},
		"a file there":      {inTheWay, GenerateOptions{}, inTheWay},
	} {
		if err := Generate(c.dir, c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
