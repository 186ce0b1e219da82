package testkit

import (
	"crypto/tls"
	"path/filepath"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/mtls"
)

// Certificates makes a CA and returns the TLS configurations of a rendezvous and of its agents.
func Certificates(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	if err := mtls.Generate(dir, mtls.GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ServerTLS(t, filepath.Join(dir, mtls.RendezvousDir)), ClientTLS(t, filepath.Join(dir, mtls.WorkerDir))
}

// ServerTLS is the configuration of a rendezvous whose certificate is in dir.
func ServerTLS(t testing.TB, dir string) *tls.Config {
	t.Helper()
	return load(t, dir, mtls.ServerRole).ServerConfig()
}

// ClientTLS is the configuration of an agent whose certificate is in dir.
func ClientTLS(t testing.TB, dir string) *tls.Config {
	t.Helper()
	return load(t, dir, mtls.ClientRole).ClientConfig()
}

func load(t testing.TB, dir string, role mtls.Role) *mtls.Material {
	t.Helper()
	material, err := mtls.Load(dir, mtls.WithRole(role))
	if err != nil {
		t.Fatal(err)
	}
	return material
}
