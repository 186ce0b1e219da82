package admin_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/psock-runtime/psock-runtime/internal/admin"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProbesAndMetricsAreServed(t *testing.T) {
	registry := prometheus.NewRegistry()
	promauto.With(registry).NewCounter(prometheus.CounterOpts{Name: "things_total", Help: "Things."}).Inc()
	var notReady error
	listener := testkit.Listen(t)
	stop := testkit.Background(t, func(ctx context.Context) error {
		return admin.Serve(ctx, listener, admin.Handler(func() error { return notReady }, registry), admin.NewClosed("program", registry).WithLabelValues("admin"))
	})
	get := func(path string) (int, string) {
		t.Helper()
		return testkit.Get(t, http.DefaultClient, "http://"+listener.Addr().String()+path)
	}
	for path, want := range map[string]string{"/livez": "ok\n", "/readyz": "ok\n", "/metrics": "\nthings_total 1"} {
		if status, body := get(path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	notReady = errors.New("slot 0: no R")
	if status, body := get("/readyz"); status != http.StatusServiceUnavailable || body != "slot 0: no R\n" {
		t.Errorf("/readyz: %d %q", status, body)
	}
	if status, _ := get("/livez"); status != http.StatusOK {
		t.Errorf("/livez: %d", status)
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
}

func TestLoopbackAddressesAreTold(t *testing.T) {
	for address, want := range map[string]struct {
		loopback bool
		problem  string
	}{
		"127.0.0.1:0":       {true, ""},
		"127.8.8.8:80":      {true, ""},
		"[::1]:80":          {true, ""},
		"localhost:80":      {true, ""},
		"0.0.0.0:80":        {false, ""},
		":80":               {false, ""},
		"[::]:80":           {false, ""},
		"10.0.0.1:65535":    {false, ""},
		"example.com:80":    {false, ""},
		"127.0.0.1":         {false, "want HOST:PORT"},
		"127.0.0.1:65536":   {false, `port "65536"`},
		"127.0.0.1:http":    {false, `port "http"`},
		"":                  {false, "want HOST:PORT"},
		"127.0.0.1:80:more": {false, "want HOST:PORT"},
	} {
		loopback, err := admin.Loopback(address)
		if loopback != want.loopback || (err == nil) != (want.problem == "") || err != nil && !strings.Contains(err.Error(), want.problem) {
			t.Errorf("%q: %v, %v; want %+v", address, loopback, err, want)
		}
	}
}
