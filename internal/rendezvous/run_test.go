package rendezvous

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"go.uber.org/zap"
)

// All parts together: a parked worker shows at each of the interfaces, and the end
// of the context ends everything.
func TestRun(t *testing.T) {
	t.Parallel()
	prober, err := sockdiag.Open(sockdiag.Range{First: 1, Last: 1}) // where no R session listens
	if err != nil {
		t.Fatal(err)
	}
	defer prober.Close()
	listen := func() net.Listener {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return listener
	}
	config := Config{
		Log: zap.NewNop(), Build: "1.2.3", Agents: listen(), API: listen(), Admin: listen(), Prober: prober,
		UIDs: []uint32{uint32(os.Getuid())}, DemandTimeout: patience, MaxAttempts: 3, Journal: journal.NewBudget(t.TempDir(), journal.Limits{}), MaxWorkers: 10,
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, config) }()

	s := &system{listener: config.Agents}
	conn := s.join(t, nil, "pod")
	if err := conn.Send(link.State, link.StateMessage{State: link.Warm, PID: 17}); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	client := &http.Client{Transport: transport, Timeout: patience}
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
	transport.CloseIdleConnections()
	stop()
	if err := receive(t, ended, "the end"); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if _, err := conn.Next(); err == nil {
		t.Error("the agent's connection is open")
	}
}

// await asks until the answer has want in it: the agent's news is on its way.
func await(t *testing.T, client *http.Client, url, want string) {
	t.Helper()
	limit := time.After(patience)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		response, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode == http.StatusOK && strings.Contains(string(body), want) {
			return
		}
		select {
		case <-look.C:
		case <-limit:
			t.Fatalf("%s: %s %q, want %q", url, response.Status, body, want)
		}
	}
}
