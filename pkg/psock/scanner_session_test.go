package psock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tap copies one direction of a connection and follows it.
type tap struct {
	mu       sync.Mutex
	scanner  Scanner
	messages []Message
}

// copy returns when src ends or either connection is closed.
func (p *tap) copy(dst, src *net.TCPConn) {
	_, _ = io.Copy(io.MultiWriter(dst, p), src)
	_ = dst.CloseWrite()
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for rest := b; len(rest) > 0; {
		n, done := p.scanner.Scan(rest)
		rest = rest[n:]
		if done {
			p.messages = append(p.messages, p.scanner.Message())
		}
	}
	return len(b), nil
}

// listenLoopback returns a listener and its port.
func listenLoopback(t *testing.T) (*net.TCPListener, string) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	_ = l.SetDeadline(time.Now().Add(time.Minute))
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return l, port
}

// keptPort returns a port on which R can listen, and which nobody is given meanwhile who asks for
// a free one: a connection has it. R sets SO_REUSEADDR, as Go does.
func keptPort(t *testing.T) string {
	t.Helper()
	l, port := listenLoopback(t)
	for _, open := range []func() (net.Conn, error){
		func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }, l.Accept,
	} {
		conn, err := open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	_ = l.Close()
	return port
}

// sessionR is an R session with one worker, which it has to wait for.
const sessionR = `
library(parallel)
port <- as.integer(commandArgs(TRUE)[1])
xdr <- commandArgs(TRUE)[2] == "TRUE"
cl <- parallelly::makeClusterPSOCK(1L, manual = TRUE, quiet = TRUE, port = port, useXDR = xdr)
stopifnot(identical(clusterCall(cl, function(x) x + 1, 1), list(2)))
e <- tryCatch(clusterCall(cl, function() stop("on purpose")), error = conditionMessage)
stopifnot(identical(e, "one node produced an error: on purpose"))
# What future >= 1.40 does in a worker to relay a condition at once.
clusterCall(cl, function() {
  for (frame in sys.frames()) {
    master <- get0("master", frame, mode = "list", inherits = FALSE)
    if (inherits(master, c("SOCKnode", "SOCK0node"))) break
  }
  data <- list(type = "VALUE", value = simpleCondition("half way"), success = TRUE)
  parallel:::sendData(master, data)
})
stopifnot(is.null(parallel:::recvResult(cl[[1]])))
library(future)
plan(cluster, workers = cl)
big <- runif(3e5)
f <- future({ Sys.sleep(0.3); sum(big) })
stopifnot(isTRUE(all.equal(value(f), sum(big))))
e <- tryCatch(value(future({ warning("careful"); stop("no way") })), error = conditionMessage)
stopifnot(identical(e, "no way"))
stopifnot(identical(value(future(list(globalenv(), function(x) x, as.list(1:1e5))))[[3]][[7]], 7L))
stopCluster(cl)
cat("fine\n")
`

// TestScannerFollowsFuture lets a real session and a real worker talk, with
// parallel's calls and future's, and follows both directions.
func TestScannerFollowsFuture(t *testing.T) {
	for _, xdr := range []bool{false, true} {
		t.Run(fmt.Sprintf("xdr=%v", xdr), func(t *testing.T) {
			up, down := tapSession(t, xdr)
			for name, p := range map[string]*tap{"session to worker": up, "worker to session": down} {
				if p.scanner.Opaque() != nil || p.scanner.InMessage() {
					t.Errorf("%s: %v, in a message: %v", name, p.scanner.Opaque(), p.scanner.InMessage())
				}
				if slices.ContainsFunc(p.messages, func(m Message) bool { return m.XDR != xdr }) {
					t.Errorf("%s: wrong format", name)
				}
			}
			checkDialogue(t, up.messages, down.messages)
		})
	}
}

// checkDialogue checks that each EXEC has one answer, and that there are as many
// of each sort as sessionR asks for. future erases the worker before each of its
// three futures, and before the one by which plan() tries the worker out.
func checkDialogue(t *testing.T, up, down []Message) {
	t.Helper()
	calls := len(up) - 1
	if calls < 8 || up[calls].Kind != KindDone || slices.ContainsFunc(up[:calls], func(m Message) bool { return m.Kind != KindExec }) {
		t.Fatalf("the session sent %+v", up)
	}
	var failed, relayed, erased int
	var longest time.Duration
	for _, m := range down {
		switch {
		case m.Kind != KindValue:
			t.Errorf("the worker sent %+v", m)
		case !m.Final:
			relayed++
		case !m.Success:
			failed++
		case m.Text == "future-grmall":
			erased++
		}
		longest = max(longest, m.Elapsed)
	}
	if answers := len(down) - relayed; answers != calls || failed != 1 || relayed != 1 || erased < 3 {
		t.Errorf("%d calls: %d answers, %d failed, %d relayed, %d times erased", calls, answers, failed, relayed, erased)
	}
	if longest < 300*time.Millisecond || longest > time.Minute {
		t.Errorf("the call that sleeps for 0.3s took %v", longest)
	}
}

// tapSession runs sessionR and a worker and returns what they said.
func tapSession(t *testing.T, xdr bool) (up, down *tap) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	listener, workerPort := listenLoopback(t)
	sessionPort := keptPort(t)
	flag := strings.ToUpper(fmt.Sprint(xdr))

	var out bytes.Buffer
	session := exec.CommandContext(ctx, "Rscript", "-e", sessionR, sessionPort, flag)
	session.Stdout, session.Stderr = &out, &out
	worker := exec.CommandContext(ctx, "Rscript", "--default-packages=datasets,utils,grDevices,graphics,stats,methods",
		"-e", "parallel:::.workRSOCK()", "MASTER=127.0.0.1", "PORT="+workerPort, "OUT=/dev/null", "TIMEOUT=60", "XDR="+flag)
	worker.Stderr = os.Stderr
	for _, cmd := range []*exec.Cmd{session, worker} {
		if err := cmd.Start(); err != nil {
			t.Fatalf("R is needed: %v", err)
		}
	}

	w, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := dialSession(ctx, t, "127.0.0.1:"+sessionPort)
	defer s.Close()
	up, down = &tap{}, &tap{}
	var copies sync.WaitGroup
	copies.Go(func() { up.copy(w, s) })
	copies.Go(func() { down.copy(s, w) })
	if err := session.Wait(); err != nil || !strings.HasSuffix(out.String(), "fine\n") {
		t.Fatalf("session: %v\n%s", err, &out)
	}
	if err := worker.Wait(); err != nil {
		t.Fatalf("worker: %v", err)
	}
	copies.Wait()
	return up, down
}

// dialSession connects to a session that is about to listen.
func dialSession(ctx context.Context, t *testing.T, address string) *net.TCPConn {
	t.Helper()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.(*net.TCPConn)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the session does not listen: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// callR calls a function on a worker that is not one.
const callR = `
con <- socketConnection("127.0.0.1", as.integer(commandArgs(TRUE)[1]), blocking = TRUE, open = "a+b", timeout = 30)
cl <- structure(list(structure(list(con = con, host = "here", rank = 1L), class = commandArgs(TRUE)[2])),
                class = c("SOCKcluster", "cluster"))
cat(tryCatch(parallel::clusterCall(cl, Sys.getpid), error = conditionMessage))
`

// TestAppendErrorIsRaised answers a call of a real session.
func TestAppendErrorIsRaised(t *testing.T) {
	const message = "3 of 4 workers are ready; waited 60s; überall"
	for _, class := range []string{"SOCKnode", "SOCK0node"} {
		t.Run(class, func(t *testing.T) {
			listener, port := listenLoopback(t)
			cmd := exec.CommandContext(t.Context(), "Rscript", "-e", callR, port, class)
			cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatalf("R is needed: %v", err)
			}
			conn, err := listener.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			var s Scanner
			buf := make([]byte, 512)
			for done := false; !done; {
				n, err := conn.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				_, done = s.Scan(buf[:n])
			}
			if m := s.Message(); m.Kind != KindExec || m.XDR != (class == "SOCKnode") {
				t.Errorf("the session sent %+v", m)
			}
			if _, err := conn.Write(AppendError(nil, message, s.Message().XDR)); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil || out.String() != "one node produced an error: "+message {
				t.Errorf("%v: %s", err, &out)
			}
		})
	}
}
