package rendezvous

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap"
)

// nowhere is a range of ports on which no R session listens.
var nowhere = sockdiag.Range{First: 1, Last: 1}

// configuration is that of a whole rendezvous on loopback, for sessions on these ports.
func configuration(t *testing.T, ports sockdiag.Range) Config {
	t.Helper()
	prober, err := sockdiag.Open(ports)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prober.Close() })
	return Config{
		Log: zap.NewNop(), Agents: testkit.Listen(t), API: testkit.Listen(t), Admin: testkit.Listen(t), Prober: prober,
		UIDs: []uint32{uint32(os.Getuid())}, DemandTimeout: patience, MaxAttempts: 3,
		Journal: journal.NewBudget(t.TempDir(), journal.Limits{}), MaxWorkers: 10,
	}
}

// serve runs the rendezvous until stop is called, or the test ends.
func serve(t *testing.T, config Config) (client *http.Client, stop func()) {
	t.Helper()
	transport := &http.Transport{}
	end := testkit.Background(t, func(ctx context.Context) error { return Run(ctx, config) })
	stop = func() { transport.CloseIdleConnections(); end() }
	t.Cleanup(stop)
	return &http.Client{Transport: transport, Timeout: patience}, stop
}

// All parts together: a parked worker shows at each of the interfaces, and the end
// of the context ends everything.
func TestWorkerShowsAtEachInterface(t *testing.T) {
	t.Parallel()
	config := configuration(t, nowhere)
	config.Build = "1.2.3"
	client, stop := serve(t, config)

	s := &system{listener: config.Agents}
	conn := s.join(t, nil, "pod")
	if err := conn.Send(link.State, link.StateMessage{State: link.Warm, PID: 17}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		listener   net.Listener
		path, want string
	}{
		{config.API, "/v1/workers", "1\n"},
		{config.API, "/v1/state", `"state":"warm"`},
		{config.API, "/v1/state", `"build":"1.2.3"`},
		{config.Admin, "/livez", "ok\n"},
		{config.Admin, "/readyz", "ok\n"},
		{config.Admin, "/metrics", `rendezvous_workers{state="warm"} 1`},
		{config.Admin, "/metrics", `rendezvous_refused_connections_total{reason="crowded"} 0`},
	} {
		await(t, client, "http://"+tc.listener.Addr().String()+tc.path, tc.want)
	}
	stop()
	if _, err := conn.Next(); err == nil {
		t.Error("the agent's connection is open")
	}
}

// await asks until the answer has want in it: the agent's news is on its way.
func await(t *testing.T, client *http.Client, url, want string) {
	t.Helper()
	var said string
	testkit.Eventually(t, fmt.Sprintf("%q of %s", want, url), func() bool {
		status, body := testkit.Get(t, client, url)
		said = fmt.Sprintf("%d %q", status, body)
		return status == http.StatusOK && strings.Contains(body, want)
	}, func() string { return said })
}
