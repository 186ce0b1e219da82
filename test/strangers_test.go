package test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// Whoever knocks at the agents' port without being an agent is refused and
// counted; a computation under way does not notice, and an agent still gets in.
func TestStrangersAtTheAgentsPort(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	undisturbed := r.compute(t)

	foreign := filepath.Join(t.TempDir(), "foreign")
	if err := mtls.Generate(foreign, mtls.GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.send(t, []byte("\x00\x01\x02garbage\xff\xfe that is no TLS at all, and long enough for a header"))
	r.send(t, []byte("GET / HTTP/1.1\r\nHost: rendezvous\r\n\r\n"))
	r.handshake(t, &tls.Config{InsecureSkipVerify: true}, nil)
	r.handshake(t, clientTLS(t, filepath.Join(foreign, "worker")), nil)
	r.awaitMetric(`rendezvous_refused_connections_total{reason="tls"}`, 4)
	// Agents by their certificate, not by what they say: one says nothing that
	// makes sense, the other dawdles.
	own := clientTLS(t, filepath.Join(r.certs, "worker"))
	r.handshake(t, own, []byte("GET / HTTP/1.1\r\n\r\n"))
	r.handshake(t, own, []byte{1, 0, 0})
	r.awaitMetric(`rendezvous_refused_connections_total{reason="protocol"}`, 2)

	const idle = 1000
	for range idle {
		conn, err := net.Dial("tcp", r.agents)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	r.startAgent("pod-late", 1)
	r.awaitWarm(1)
	// When 512 wait, the next ones of their address are sent away at once; those that wait
	// are when they have not said anything for the time a handshake may take.
	r.awaitMetric(`rendezvous_refused_connections_total{reason="address"}`, 1)
	eventually(t, "the end of every idle connection", func() bool {
		return r.number(`rendezvous_refused_connections_total{reason="address"}`)+r.number(`rendezvous_refused_connections_total{reason="tls"}`) >= idle+4
	})

	undisturbed()
	r.awaitWarm(3)
}

// compute starts a session that computes until undisturbed is called, which fails the test
// if anything in it went wrong.
func (r *runtime) compute(t *testing.T) (undisturbed func()) {
	t.Helper()
	gate := filepath.Join(t.TempDir(), "gate")
	s := r.startR(`
library(future.apply)
plan(cluster, manual = TRUE, quiet = TRUE)
cat("computing\n")
while (!file.exists(Sys.getenv("GATE"))) stopifnot(identical(future_sapply(1:8, sqrt), sqrt(1:8)))
cat("computed undisturbed\n")
`, "GATE="+gate)
	s.awaitText("computing")
	return func() {
		t.Helper()
		openGate(t, gate)
		if code := s.wait(); code != 0 || !strings.Contains(s.text(), "computed undisturbed") {
			t.Errorf("R exited with %d and says %q", code, s.text())
		}
	}
}

// Ten thousand idle connections to each port are closed but for a bounded number, and counted; who asks
// meanwhile is answered, and a computation under way does not notice.
func TestTenThousandIdleConnections(t *testing.T) {
	t.Parallel()
	const idle, most = 10_000, 512
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < idle+2000 {
		t.Fatalf("the test needs %d open files and may have %d (%v): raise the limit (ulimit -Hn)", idle+2000, files.Cur, err)
	}
	r := startRendezvous(t)
	agent := r.startAgent("pod-a", 2)
	agentAdmin := agent.field("worker agent is up", "admin")
	r.awaitWarm(2)
	undisturbed := r.compute(t)
	counted := func(address, name string) func() float64 {
		return func() float64 { return number(t, address, name) }
	}
	strangers := func() float64 {
		n := 0.0
		for _, reason := range []string{"address", "crowded", "tls"} {
			n += r.number(fmt.Sprintf("rendezvous_refused_connections_total{reason=%q}", reason))
		}
		return n
	}
	for _, port := range []struct {
		name, address string
		closed        func() float64
	}{
		{"agents", r.agents, strangers},
		{"api", r.api, counted(r.admin, `rendezvous_closed_idle_connections_total{server="api"}`)},
		{"admin", r.admin, counted(r.admin, `rendezvous_closed_idle_connections_total{server="admin"}`)},
		{"the agent's admin", agentAdmin, counted(agentAdmin, `worker_agent_closed_idle_connections_total{server="admin"}`)},
	} {
		conns := make([]net.Conn, 0, idle)
		for range idle {
			conn, err := net.Dial("tcp", port.address)
			if err != nil {
				t.Fatalf("%s, after %d: %v", port.name, len(conns), err)
			}
			conns = append(conns, conn)
		}
		eventually(t, port.name+" to close and count all but a few", func() bool { return port.closed() >= idle-most })
		for _, conn := range conns {
			conn.Close()
		}
	}
	r.startAgent("pod-late", 1)
	r.awaitWarm(1)
	undisturbed()
	r.awaitWarm(3)
}

// A real certificate of the CA does not make an agent: it has to be for the name. And an
// agent's name is one process's. Either hears why, and a plan next to them has the workers
// that there are.
func TestStrangersWithACertificate(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)

	// The CA's certificates of another service.
	others := filepath.Join(t.TempDir(), "others")
	if err := os.CopyFS(others, os.DirFS(r.certs)); err != nil {
		t.Fatal(err)
	}
	if err := mtls.Generate(others, mtls.GenerateOptions{WorkerName: "web"}); err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(bin, "worker-agent")
	for _, tc := range []struct{ certs, name, reason, want string }{
		{others, "pod-b", "name", `lacks "worker", which agents need`},
		{r.certs, "pod-a", "slot", `another agent called "pod-a" is connected`},
	} {
		stranger := launch(t, nil, agent, "--rendezvous", r.agents, "--tls-dir", filepath.Join(tc.certs, "worker"), "--name", tc.name,
			"--admin-address", "127.0.0.1:0", "--no-limits")
		if why := stranger.field("no connection to the rendezvous, trying on", "error"); !strings.Contains(why, tc.want) {
			t.Errorf("%s hears %q, want %q", tc.name, why, tc.want)
		}
		r.awaitMetric(fmt.Sprintf(`rendezvous_refused_connections_total{reason=%q}`, tc.reason), 1)
	}
	r.R(`library(future); plan(cluster, manual = TRUE, quiet = TRUE); stopifnot(nbrOfWorkers() == 1, value(future(1)) == 1)`)
}

// number is a metric as a number.
func (r *runtime) number(series string) float64 {
	r.t.Helper()
	return number(r.t, r.admin, series)
}

func number(t *testing.T, address, series string) float64 {
	t.Helper()
	value, err := strconv.ParseFloat(scrape(t, address, series), 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// awaitMetric waits until a counter is at least n.
func (r *runtime) awaitMetric(series string, n float64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%s to be %g", series, n), func() bool { return r.number(series) >= n })
}

// send connects in plain text, says p and waits to be hung up on.
func (r *runtime) send(t *testing.T, p []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", r.agents)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(p); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn) // an alert, and the end or a reset
}

// handshake connects with TLS, says p and waits to be hung up on.
func (r *runtime) handshake(t *testing.T, config *tls.Config, p []byte) {
	t.Helper()
	conn, err := tls.Dial("tcp", r.agents, config)
	if err != nil {
		return // refused in the handshake
	}
	defer conn.Close()
	if len(p) > 0 {
		_, _ = conn.Write(p)
	}
	if n, err := io.Copy(io.Discard, conn); n > 0 {
		t.Errorf("the rendezvous answered a stranger with %d bytes (%v)", n, err)
	}
}

func clientTLS(t *testing.T, dir string) *tls.Config {
	t.Helper()
	config := testkit.ClientTLS(t, dir)
	// The stranger does not care whom it speaks to.
	config.InsecureSkipVerify, config.VerifyConnection = true, nil
	return config
}

// Listeners in the port range that are no R sessions: the worker that was meant
// for them goes back untouched, and those of other users are not even asked.
func TestStrangersInThePortRange(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--grace", "0s")
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	before := r.await("a warm worker", func(s api.State) bool { return count(s, pool.Warm) == 1 })

	other := r.startOtherUsersR(t)
	web := r.listenInRange()
	server := &http.Server{Handler: http.NotFoundHandler()}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(web) }()
	var met atomic.Int32
	accepted := make(chan struct{}, 10)
	silent := r.listenInRange()
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			met.Add(1)
			accepted <- struct{}{}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	<-accepted
	r.await("both to cost a connection and no worker", func(s api.State) bool { return len(s.Clusters) == 2 && count(s, pool.Warm) == 1 })
	after, err := r.state()
	if err != nil {
		t.Fatal(err)
	}
	if was, is := before.Workers[0].PID, after.Workers[0].PID; was != is {
		t.Errorf("the worker was %d and is %d: nobody was to touch it", was, is)
	}
	r.R(`library(future); plan(cluster, manual = TRUE, quiet = TRUE); stopifnot(value(future(1)) == 1)`)
	r.awaitWarm(1)
	if n := met.Load(); n != 1 {
		t.Errorf("the silent listener was connected to %d times, want once", n)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-other.said; got != "nobody\n" {
		t.Errorf("another user's R was connected to: %q", got)
	}
}

// listenInRange listens where R sessions do.
func (r *runtime) listenInRange() net.Listener {
	r.t.Helper()
	for port := r.last; port >= r.first; port-- {
		if listener, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port)); err == nil {
			r.t.Cleanup(func() { listener.Close() })
			return listener
		}
	}
	r.t.Fatalf("no port from %d to %d is free", r.first, r.last)
	return nil
}

// otherUsersR is an R session of the user nobody, with a listener. Once its stdin
// is closed it says whether somebody has connected.
type otherUsersR struct {
	io.WriteCloser
	said chan string
}

func (r *runtime) startOtherUsersR(t *testing.T) *otherUsersR {
	t.Helper()
	free := r.listenInRange()
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	cmd := exec.Command("Rscript", "--vanilla", "-e", fmt.Sprintf(`
s <- serverSocket(%d)
cat("listening\n")
invisible(readLines(file("stdin")))
cat(if (socketSelect(list(s), FALSE, 0)) "somebody\n" else "nobody\n")`, port))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	in, out := testkit.Start(t, cmd)
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	line := make([]byte, len("listening\n"))
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatal(err)
	}
	other := &otherUsersR{in, make(chan string, 1)}
	go func() {
		text, _ := io.ReadAll(out)
		other.said <- string(text)
	}()
	return other
}

// Without TLS, which is for loopback, another user of the machine can pose neither
// as an agent nor as the rendezvous.
func TestOtherUsersWithoutTLS(t *testing.T) {
	t.Parallel()
	rendezvous := filepath.Join(bin, "rendezvous")
	agent := filepath.Join(bin, "worker-agent")
	plain := []string{"--agents-address", "127.0.0.1:0", "--api-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"}
	ours := &runtime{t: t, process: launch(t, nil, rendezvous, append(plain, "--log-level", "debug")...)}
	ours.agents, ours.admin = ours.field("rendezvous is up", "agents"), ours.field("rendezvous is up", "admin")
	theirs := launchAsNobody(t, rendezvous, plain...)

	posing := launchAsNobody(t, agent, "--rendezvous", ours.agents, "--admin-address", "127.0.0.1:0", "--no-limits", "--dir", "/")
	posing.field("no connection to the rendezvous, trying on", "error")
	ours.awaitMetric(`rendezvous_refused_connections_total{reason="user"}`, 1)
	if why := ours.field("connection refused", "error"); !strings.Contains(why, "user 65534") || !strings.Contains(why, "--tls-dir") {
		t.Errorf("the rendezvous says %q", why)
	}

	victim := launch(t, nil, agent, "--rendezvous", theirs.field("rendezvous is up", "agents"), "--admin-address", "127.0.0.1:0", "--no-limits")
	if why := victim.field("no connection to the rendezvous, trying on", "error"); !strings.Contains(why, "belongs to user 65534") || !strings.Contains(why, "--tls-dir") {
		t.Errorf("the agent says %q", why)
	}
}

func launchAsNobody(t *testing.T, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return launchCommand(t, cmd)
}
