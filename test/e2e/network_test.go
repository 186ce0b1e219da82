//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// reaches is what a pod's R sees of an address: "open" or "closed".
func (n *namespace) reaches(pod, host string, port int) string {
	n.t.Helper()
	return n.sh(fmt.Sprintf(`kubectl exec %s -- Rscript -e 'cat(tryCatch({ close(socketConnection("%s", %d, open = "r+b", blocking = TRUE, timeout = 3)); "open" }, error = function(e) "closed", warning = function(w) "closed"))'`, pod, host, port))
}

// TestNetworkPolicy is line 6: who reaches whom, with the policy and without it.
func TestNetworkPolicy(t *testing.T) {
	n := newNamespace(t)
	n.install(headless)
	n.sh(`kubectl run foreign --image=` + rImage() + ` --image-pull-policy=IfNotPresent --command -- Rscript -e 'repeat { s <- serverSocket(9000); close(socketAccept(s, timeout = 1e6)); close(s) }'`)
	n.sh("kubectl wait --for=condition=ready --timeout=60s pod/foreign")
	address := func(pod string) string {
		return n.sh("kubectl get pod " + pod + " -o jsonpath='{.items[0].status.podIP}{.status.podIP}'")
	}
	scheduler, foreign := address("-l component=scheduler"), address("foreign")
	worker := n.workerPods()[0]
	api := n.sh("kubectl get service kubernetes --namespace=default -o jsonpath='{.spec.clusterIP}'")
	// A listener on R's ports, on all addresses, of a user who is not served.
	const listener = 11500
	s := n.startR(fmt.Sprintf(`s <- serverSocket(%d); cat("listening\n"); repeat Sys.sleep(1)`, listener))
	s.await("listening")

	table := []struct {
		from, host string
		port       int
		want       string
		without    string // the policy
	}{
		{"foreign", scheduler, listener, "closed", "open"},
		{"foreign", scheduler, 7460, "closed", "open"},
		{"foreign", "future-rendezvous", 7460, "closed", "open"},
		{"foreign", scheduler, 7462, "open", "open"},
		{worker, "future-rendezvous", 7460, "open", "open"},
		{worker, scheduler, 7460, "open", "open"},
		{worker, scheduler, listener, "closed", "open"},
		{worker, scheduler, 7462, "closed", "open"},
		{worker, foreign, 9000, "closed", "open"},
		{worker, api, 443, "closed", "open"},
	}
	for _, c := range table {
		if got := n.reaches(c.from, c.host, c.port); got != c.want {
			t.Errorf("from %s, %s:%d is %s, want %s", c.from, c.host, c.port, got, c.want)
		}
	}
	n.plan(3)

	n.sh("helm upgrade --wait --reuse-values test " + filepath.Join(root(t), "charts/future") + " --set networkPolicy.enabled=false")
	refused := n.metric(`rendezvous_refused_connections_total{reason="tls"}`)
	n.eventually("the policy is gone", func() bool { return n.reaches("foreign", "future-rendezvous", 7460) == "open" })
	for _, c := range table {
		if got := n.reaches(c.from, c.host, c.port); got != c.without {
			t.Errorf("without the policy: from %s, %s:%d is %s, want %s", c.from, c.host, c.port, got, c.without)
		}
	}
	// Whoever gets there without a certificate is refused, and counted.
	n.sh(`kubectl exec foreign -- Rscript -e 'con <- socketConnection("future-rendezvous", 7460, open = "r+b", blocking = TRUE, timeout = 5); writeBin(charToRaw("GET / HTTP/1.0\r\n\r\n"), con); invisible(readBin(con, "raw", 100))'`)
	if now := n.metric(`rendezvous_refused_connections_total{reason="tls"}`); now == refused {
		t.Errorf("a connection without TLS was not refused: still %s", now)
	}
	n.plan(3)
	if out := n.sh("kubectl auth can-i --list --as=system:serviceaccount:" + n.name + ":future-worker"); strings.Contains(out, "pods") || strings.Contains(out, "secrets") {
		t.Errorf("workers may:\n%s", out)
	}
}
