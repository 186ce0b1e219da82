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
	t.Parallel()
	n := newNamespace(t)
	n.install(headless)
	n.sh(`kubectl run foreign --image=` + n.rImage() + ` --image-pull-policy=IfNotPresent --command -- Rscript -e 'repeat { s <- serverSocket(9000); close(socketAccept(s, timeout = 1e6)); close(s) }'`)
	n.sh("kubectl wait --for=condition=ready --timeout=60s pod/foreign")
	address := func(pod string) string {
		return n.sh("kubectl get pod " + pod + " -o jsonpath='{.items[0].status.podIP}{.status.podIP}'")
	}
	scheduler, foreign := address("-l component=scheduler"), address("foreign")
	worker := n.workerPods()[0]
	api := n.sh("kubectl get service kubernetes --namespace=default -o jsonpath='{.spec.clusterIP}'")
	// A listener on R's ports, on all addresses, which wants no worker. It does not accept, so that it has
	// one for ten seconds, until the rendezvous is sure.
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
	n.warm(3)
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
	n.warm(3)
	n.plan(3)
}

// TestNarrowPolicy is line 6 for the values that narrow the policy: what workers reach
// outside and of metadata services, who asks names, who reads metrics, who sees RStudio.
func TestNarrowPolicy(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install("--set worker.replicas=1")
	// One pod that answers on a port of the name service, and one that a value names.
	for pod, labels := range map[string]string{"foreign": "is=foreign", "friend": "is=friend"} {
		n.sh(`kubectl run ` + pod + ` --labels=` + labels + ` --image=` + n.rImage() + ` --image-pull-policy=IfNotPresent --command -- Rscript -e 'repeat { s <- serverSocket(53); close(socketAccept(s, timeout = 1e6)); close(s) }'`)
	}
	n.sh("kubectl wait --for=condition=ready --timeout=60s pod/foreign pod/friend")
	address := func(pod string) string {
		return n.sh("kubectl get pod " + pod + " -o jsonpath='{.items[0].status.podIP}{.status.podIP}'")
	}
	scheduler, foreign, friend := address("-l component=scheduler"), address("foreign"), address("friend")
	worker := n.workerPods()[0]
	// What is neither pod nor private, as far as the policy knows: the API server, by a
	// value that says so.
	api := n.sh("kubectl get service kubernetes --namespace=default -o jsonpath='{.spec.clusterIP}'")
	const outside = " --set networkPolicy.clusterCIDRs={198.51.100.0/24}"
	const peer = "[0].podSelector.matchLabels.is=friend"

	type way struct {
		from, host string
		port       int
		want       string
	}
	for _, c := range []struct {
		name, set string
		ways      []way
	}{
		{"as it stands", "", []way{
			{worker, api, 443, "closed"},
			{worker, "169.254.169.254", 80, "closed"},
			{worker, foreign, 53, "closed"},
			{"foreign", scheduler, 7462, "open"},
			{"foreign", scheduler, 8787, "open"},
		}},
		{"the internet", outside, []way{{worker, api, 443, "open"}}},
		{"no internet", outside + " --set networkPolicy.internet=false", []way{
			{worker, api, 443, "closed"},
			{worker, foreign, 53, "closed"},
			{worker, "future-rendezvous", 7460, "open"},
		}},
		{"peers", " --set networkPolicy.metricsFrom" + peer + " --set networkPolicy.rstudioFrom" + peer + " --set networkPolicy.workerEgress[0].to" + peer, []way{
			{"friend", scheduler, 7462, "open"},
			{"friend", scheduler, 8787, "open"},
			{"friend", address("-l component=worker"), 7463, "open"},
			{"foreign", scheduler, 7462, "closed"},
			{"foreign", scheduler, 8787, "closed"},
			{"foreign", address("-l component=worker"), 7463, "closed"},
			{worker, friend, 53, "open"},
			{worker, foreign, 53, "closed"},
		}},
		{"names of everybody", " --set networkPolicy.nameService=null", []way{{worker, foreign, 53, "open"}}},
	} {
		n.sh("helm upgrade --wait --reset-values test " + filepath.Join(root(t), "charts/future") + " --set worker.replicas=1" + c.set)
		for _, w := range c.ways {
			// The policy takes a moment to be everywhere.
			n.eventually(fmt.Sprintf("%s: from %s, %s:%d is %s", c.name, w.from, w.host, w.port, w.want), func() bool {
				return n.reaches(w.from, w.host, w.port) == w.want
			})
		}
		n.plan(1)
	}
}

// TestRights: R code of a session has no token, workers have one only where they watch
// EndpointSlices, and neither account may do more than it needs.
func TestRights(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless, "--set worker.replicas=1")
	token := func(where string) string {
		return n.sh("kubectl exec " + where + ` -- Rscript -e 'cat(file.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"))'`)
	}
	may := func(account, rest string) string {
		out, _ := n.try("kubectl auth can-i " + rest + " --as=system:serviceaccount:" + n.name + ":" + account)
		return out[strings.LastIndex(out, "\n")+1:] // a warning may come before it
	}
	for discovery, yes := range map[string]string{"dns": "no", "kubernetes": "yes"} {
		n.sh("helm upgrade --wait --reuse-values test " + filepath.Join(root(t), "charts/future") + " --set agent.discovery=" + discovery)
		n.rollout()
		n.eventually("one worker pod", func() bool { return len(n.workerPods()) == 1 })
		if got := token("deployment/future-scheduler"); got != "FALSE" {
			t.Errorf("%s: the session's container has a token: %s", discovery, got)
		}
		if got, want := token("pod/"+n.workerPods()[0]), map[string]string{"dns": "FALSE", "kubernetes": "TRUE"}[discovery]; got != want {
			t.Errorf("%s: the worker's container has a token: %s, want %s", discovery, got, want)
		}
		for _, c := range []struct{ account, rest, want string }{
			{"future-scheduler", "get pods", "yes"},
			{"future-scheduler", "list pods", "yes"},
			{"future-scheduler", "watch pods", "yes"},
			{"future-scheduler", "list pods --all-namespaces", "no"},
			{"future-scheduler", "delete pods", "no"},
			{"future-scheduler", "create pods --subresource=exec", "no"},
			{"future-scheduler", "get secrets", "no"},
			{"future-scheduler", "list endpointslices.discovery.k8s.io", "no"},
			{"future-worker", "get endpointslices.discovery.k8s.io", yes},
			{"future-worker", "list endpointslices.discovery.k8s.io", yes},
			{"future-worker", "watch endpointslices.discovery.k8s.io", yes},
			{"future-worker", "list endpointslices.discovery.k8s.io --all-namespaces", "no"},
			{"future-worker", "update endpointslices.discovery.k8s.io", "no"},
			{"future-worker", "list pods", "no"},
			{"future-worker", "get secrets", "no"},
			{"future-worker", "get configmaps", "no"},
		} {
			if got := may(c.account, c.rest); got != c.want {
				t.Errorf("%s: may %s %s? %s, want %s", discovery, c.account, c.rest, got, c.want)
			}
		}
		n.plan(1)
	}
}
