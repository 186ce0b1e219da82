package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// network is two network namespaces and a cable between them.
type network struct {
	t           *testing.T
	near, far   string // names of the namespaces
	nearAddress string
}

// networks numbers them: tests with networks of their own do not meet.
var networks atomic.Int32

// newNetwork lays the cable.
func newNetwork(t *testing.T) *network {
	t.Helper()
	id := fmt.Sprintf("%d-%d", os.Getpid(), networks.Add(1))
	n := &network{t: t, near: "psock-n" + id, far: "psock-f" + id, nearAddress: "192.0.2.1"}
	for _, namespace := range []string{n.near, n.far} {
		n.run("ip", "netns", "add", namespace)
		t.Cleanup(func() { n.run("ip", "netns", "del", namespace) })
		n.run("ip", "-n", namespace, "link", "set", "lo", "up")
	}
	n.run("ip", "link", "add", "cable", "netns", n.near, "type", "veth", "peer", "name", "cable", "netns", n.far)
	for namespace, address := range map[string]string{n.near: n.nearAddress, n.far: "192.0.2.2"} {
		n.run("ip", "-n", namespace, "address", "add", address+"/24", "dev", "cable")
		n.run("ip", "-n", namespace, "link", "set", "cable", "up")
	}
	return n
}

// cut drops every packet from now on, without a word to either side.
func (n *network) cut() {
	n.t.Helper()
	n.run("ip", "netns", "exec", n.near, "nft",
		"add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in iifname cable drop")
}

// reset answers every packet that the far side gets with the reset of its connection.
func (n *network) reset() {
	n.t.Helper()
	n.run("ip", "netns", "exec", n.far, "nft",
		"add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in iifname cable meta l4proto tcp reject with tcp reset")
}

// slow has the cable carry 50 MB a second, so that a large object is on its way for some
// seconds.
func (n *network) slow() {
	n.t.Helper()
	for _, namespace := range []string{n.near, n.far} {
		n.run("ip", "netns", "exec", namespace, "tc", "qdisc", "add", "dev", "cable", "root", "tbf", "rate", "400mbit", "burst", "1mb", "latency", "50ms")
	}
}

// mend lets packets pass again.
func (n *network) mend() {
	n.t.Helper()
	n.run("ip", "netns", "exec", n.near, "nft", "delete table inet cut")
}

func (n *network) run(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// launch starts a program in one of the namespaces.
func (n *network) launch(namespace, name string, args ...string) *process {
	n.t.Helper()
	return launch(n.t, nil, "ip", append([]string{"netns", "exec", namespace, name}, args...)...)
}

// await asks 'rendezvous status' until ok holds.
func (n *network) await(what string, ok func(api.State) bool) (last api.State) {
	n.t.Helper()
	eventually(n.t, what, func() bool {
		out, err := exec.Command("ip", "netns", "exec", n.near, filepath.Join(bin, "rendezvous"), "status", "--json").Output()
		last = api.State{}
		return err == nil && json.Unmarshal(out, &last) == nil && ok(last)
	})
	return last
}

// A network that drops every packet: both sides notice, the session's call fails,
// a worker that may be dead is handed to nobody, and when the network is back the
// idle worker is the same as before.
func TestSilentNetwork(t *testing.T) {
	t.Parallel()
	certs := filepath.Join(t.TempDir(), "certs")
	n := newNetwork(t)
	n.run(filepath.Join(bin, "rendezvous"), "certs", "--dir", certs)
	rendezvous := n.launch(n.near, filepath.Join(bin, "rendezvous"), "--agents-address", n.nearAddress+":7460",
		"--tls-dir", filepath.Join(certs, "rendezvous"), "--demand-timeout", "3s")
	rendezvous.field("rendezvous is up", "agents")
	agent := n.launch(n.far, filepath.Join(bin, "worker-agent"), "--rendezvous", n.nearAddress+":7460",
		"--tls-dir", filepath.Join(certs, "worker"), "--workers", "3", "--name", "far", "--no-limits")
	warm := func(number int) func(api.State) bool {
		return func(s api.State) bool { return count(s, pool.Warm) == number }
	}
	n.await("three warm workers", warm(3))

	profile, err := filepath.Abs("../r/Rprofile.site")
	if err != nil {
		t.Fatal(err)
	}
	R := func(code string) *process {
		file := filepath.Join(t.TempDir(), "session.R")
		if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		return n.launch(n.near, "env", "R_PROFILE="+profile, "Rscript", file)
	}
	first := R(`
library(future)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
f <- future(Sys.sleep(3600))
cat("computing\n")
e <- tryCatch(value(f), error = identity)
stopifnot(inherits(e, "FutureError"))
cat("noticed\n")
`)
	first.awaitText("computing")
	before := n.await("two bound workers", func(s api.State) bool { return count(s, pool.Bound) == 2 && count(s, pool.Warm) == 1 })
	n.cut()

	// At once, long before the silence is noticed: the third worker is asked, does
	// not answer, and is not handed out.
	second := R(`
e <- tryCatch(parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE), error = identity)
cat(conditionMessage(e), "\n")
`)
	second.awaitText("; node 1 waited ")
	rendezvous.awaitText("worker does not answer")

	first.awaitText("noticed")
	if code := first.wait(); code != 0 {
		t.Errorf("R exited with %d", code)
	}
	// Both sides noticed by the silence limit, which is below 15 s, not by TCP.
	rendezvous.awaitText("nothing heard from 192.0.2.2")
	agent.awaitText("nothing heard from 192.0.2.1:7460 for 14s")
	agent.awaitText("the connection to the rendezvous was lost")
	n.await("an empty pool", func(s api.State) bool { return len(s.Workers) == 0 })

	n.mend()
	after := n.await("three warm workers", warm(3))
	idle := func(s api.State) (pids []int) {
		for _, w := range s.Workers {
			if w.State == pool.Warm {
				pids = append(pids, w.PID)
			}
		}
		return pids
	}
	untouched := idle(before)[0]
	if now := idle(after); now[0] != untouched && now[1] != untouched && now[2] != untouched {
		t.Errorf("the idle worker %d is not among %v: it was not to be touched", untouched, now)
	}
}

// A worker that is lost by a network which resets its connection, or drops every packet
// in silence, at every moment of a future: it runs again on another, but for where R has
// part of the answer, and the lost one does not compute for nobody.
func TestRerunAfterNetworkFailure(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*network){"reset": (*network).reset, "silence": (*network).cut} {
		for _, moment := range []string{"before", "request", "computing", "answer"} {
			t.Run(name+" "+moment, func(t *testing.T) {
				t.Parallel()
				testNetworkFailure(t, fail, moment)
			})
		}
	}
}

func testNetworkFailure(t *testing.T, fail func(*network), moment string) {
	certs := filepath.Join(t.TempDir(), "certs")
	n := newNetwork(t)
	n.slow()
	n.run(filepath.Join(bin, "rendezvous"), "certs", "--dir", certs)
	n.launch(n.near, filepath.Join(bin, "rendezvous"), "--agents-address", n.nearAddress+":7460",
		"--tls-dir", filepath.Join(certs, "rendezvous")).field("rendezvous is up", "agents")
	agent := func(namespace, name string) *process {
		return n.launch(namespace, filepath.Join(bin, "worker-agent"), "--rendezvous", n.nearAddress+":7460",
			"--tls-dir", filepath.Join(certs, "worker"), "--name", name, "--no-limits")
	}
	far := agent(n.far, "pod-a")
	n.await("a warm worker", func(s api.State) bool { return count(s, pool.Warm) == 1 })
	agent(n.near, "pod-b")
	n.await("two warm workers", func(s api.State) bool { return count(s, pool.Warm) == 2 })
	file := filepath.Join(t.TempDir(), "session.R")
	if err := os.WriteFile(file, []byte(rerunSession), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := 0
	lossAt{
		t: t, moment: moment, await: n.await, unseen: true,
		start: func(env ...string) *process {
			return n.launch(n.near, "env", append(env, "Rscript", file)...)
		},
		fail: func(pid int) {
			lost = pid
			fail(n)
			// Its agent ends it with all that it was sent, however slow it is.
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		},
	}.run()
	awaitEnd(t, lost)
	far.awaitText("the connection to the rendezvous was lost")
}
