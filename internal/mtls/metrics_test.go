package mtls

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// The metric is that of the certificate in use: the renewed one as soon as the files
// have it, the old one while the new files are of no use.
func TestExpiryMetric(t *testing.T) {
	dir := t.TempDir()
	put := func(from string) { t.Helper(); copySecret(t, filepath.Join(from, WorkerDir), dir) }
	put(generate(t, GenerateOptions{Validity: time.Hour}))
	m := load(t, dir)
	registry := prometheus.NewRegistry()
	m.Register(registry, "worker_agent_tls_certificate_expiry_timestamp_seconds")
	check := func(m *Material) { // m is one that has just been loaded
		t.Helper()
		const name = "worker_agent_tls_certificate_expiry_timestamp_seconds"
		want := fmt.Sprintf("# HELP %[1]s When the TLS certificate in use expires, in seconds since 1970.\n# TYPE %[1]s gauge\n%[1]s %[2]d\n", name, m.NotAfter().Unix())
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), name); err != nil {
			t.Error(err)
		}
	}
	check(m)
	put(generate(t, GenerateOptions{Validity: 2 * time.Hour}))
	renewed := load(t, dir)
	check(renewed)
	put(generate(t, GenerateOptions{now: func() time.Time { return time.Now().Add(-2 * DefaultValidity) }}))
	check(renewed)
}
