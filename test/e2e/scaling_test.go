//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// elastic are the values of a release that has as many workers as sessions want, up to
// four, and none when nobody wants any for 15 s.
const elastic = headless + " --set worker.autoscaling.enabled=true --set worker.autoscaling.max=4 --set worker.autoscaling.idle=15s"

// replicas is how many pods a Deployment is told to have.
func (n *namespace) replicas(deployment string) string {
	n.t.Helper()
	return n.sh("kubectl get deployment/" + deployment + " -o jsonpath='{.spec.replicas}'")
}

// rendezvous runs a command in the rendezvous' container of a scheduler.
func (n *namespace) rendezvous(scheduler, command string) string {
	n.t.Helper()
	return n.sh("kubectl exec " + scheduler + " -c rendezvous -- /rendezvous " + command)
}

// condition is what rendezvous status says is in the way of scaling, as
// "Type, Reason: message" in a line each.
func (n *namespace) condition(scheduler string) string {
	n.t.Helper()
	return n.sh("kubectl exec " + scheduler + ` -c rendezvous -- /rendezvous status --json | jq -r '.scaling[].conditions[]? | "\(.type), \(.reason): \(.message)"'`)
}

const scheduler = "deployment/future-scheduler"

// awaitCondition waits until the condition is in the table, in the log and in the metrics.
func (n *namespace) awaitCondition(kind, reason, message string) {
	n.t.Helper()
	want := kind + ", " + reason + ": "
	n.eventually("the condition "+want, func() bool { return strings.Contains(n.condition(scheduler), want) })
	if table := n.rendezvous(scheduler, "status"); !strings.Contains(table, want) || !strings.Contains(table, message) {
		n.t.Errorf("rendezvous status does not have %q and %q:\n%s", want, message, table)
	}
	if value := n.metric(fmt.Sprintf(`rendezvous_scale_condition{group="default",type=%q}`, kind)); value != "1" {
		n.t.Errorf("the metric of %s is %s", kind, value)
	}
	log := n.sh(`kubectl logs ` + scheduler + ` -c rendezvous | jq -r 'select(.msg == "a condition of the group'"'"'s scaling") | "\(.type), \(.reason): \(.message)"'`)
	if !strings.Contains(log, want) || !strings.Contains(log, message) {
		n.t.Errorf("the log does not have %q and %q:\n%s", want, message, log)
	}
}

// awaitNoCondition waits until nothing is in the way.
func (n *namespace) awaitNoCondition() {
	n.t.Helper()
	n.eventually("nothing is in the way of scaling", func() bool { return n.condition(scheduler) == "" })
}

// session is R code that plans with so many workers, computes on all of them and says what
// came of it. It ends when there is a file gate, if that is not "".
func session(workers int, gate string) string {
	return fmt.Sprintf(`
library(future)
tryCatch({
	plan(cluster, workers = %d, manual = TRUE, quiet = TRUE)
	repeat { # until all compute at once
		f <- lapply(seq_len(nbrOfWorkers()), function(i) future({ Sys.sleep(2); Sys.info()[["nodename"]] }))
		pods <- unique(vapply(f, value, ""))
		if (length(pods) == nbrOfWorkers()) break
	}
	cat("computed on", length(pods), "pods\n")
}, error = function(e) cat("R says:", conditionMessage(e), "\n"))
gate <- %q
while (nzchar(gate) && !file.exists(gate)) Sys.sleep(0.2)
`, workers, gate)
}

// open lets the sessions end that wait for a gate.
func (n *namespace) open(gate string) {
	n.t.Helper()
	n.sh("kubectl exec " + scheduler + " -c scheduler -- touch " + gate)
}

// TestScalingWithoutAPIServer: the API server does not answer the rendezvous for a minute.
// It needs the cluster of test/cluster.
func TestScalingWithoutAPIServer(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(elastic, "--set rendezvous.demandTimeout=3m")
	first := n.startR(session(2, "/tmp/first"))
	first.await("computed on 2 pods")

	cut := filepath.Join(root(t), "test/cluster/cut")
	pod := n.sh("kubectl get pod -l component=scheduler -o jsonpath='{.items[0].spec.nodeName} {.items[0].status.podIP}'")
	n.sh(cut + " " + pod)
	t.Cleanup(func() { n.try(cut + " --mend " + pod) })
	second := n.startR(session(2, ""))
	n.awaitCondition("ScalingFails", "Unreachable", "the API server does not answer as it should")
	if errors := n.metric(`rendezvous_scale_errors_total{group="default",reason="Unreachable"}`); errors == "0" {
		t.Error("no error is counted")
	}
	// Who cannot wait is told why.
	out := n.r(`cat("R says:", tryCatch(rendezvous::cluster(4, timeout = 20), error = conditionMessage), "\n")`)
	if !strings.Contains(out, "R says: timed out after 20 s") || !strings.Contains(out, "the API server does not answer as it should") {
		t.Errorf("the R error does not say why:\n%s", out)
	}
	// What there is goes on working, and is not touched.
	n.sh("sleep 60") // the minute of the outage
	if got := n.replicas("future-worker"); got != "2" {
		t.Errorf("%s replicas", got)
	}
	n.sh(cut + " --mend " + pod)
	second.await("computed on 2 pods")
	second.wait()
	n.awaitNoCondition()
	n.open("/tmp/first")
	first.wait()
	n.eventually("no worker is left", func() bool { return n.replicas("future-worker") == "0" && len(n.workerPods()) == 0 })
	if reruns := n.metric("rendezvous_reruns_total"); reruns != "0" {
		t.Errorf("%s reruns", reruns)
	}
}

// TestScalingWithQuota: a quota forbids some of the pods that are wanted.
func TestScalingWithQuota(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(elastic, "--set rendezvous.demandTimeout=30s")
	n.sh("kubectl create quota few --hard=pods=3") // the scheduler, two workers
	s := n.startR(session(4, ""))
	n.awaitCondition("PodsFail", "FailedCreate", "exceeded quota: few")
	s.await("R says:")
	out := s.wait()
	for _, want := range []string{"workers are ready", "pods run; FailedCreate: ", "exceeded quota: few"} {
		if !strings.Contains(out, want) {
			t.Errorf("the R error lacks %q:\n%s", want, out)
		}
	}
	// Those that there are do.
	if out := n.r(session(2, "")); !strings.Contains(out, "computed on 2 pods") {
		t.Error(out)
	}
	n.sh("kubectl delete quota few")
	n.eventually("no worker is left", func() bool { return n.replicas("future-worker") == "0" && len(n.workerPods()) == 0 })
	n.awaitNoCondition()
	if out := n.r(session(4, "")); !strings.Contains(out, "computed on 4 pods") {
		t.Error(out)
	}
}

// TestQuotaBelowMax: a plan without a number has as many nodes as there may be pods, and computes on those
// that the quota allows.
func TestQuotaBelowMax(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(fromZero)
	n.awaitNoWorkers()
	n.sh("kubectl create quota few --hard=pods=4") // the scheduler, three workers
	s := n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 6)
pods <- NULL
rounds <- 0
while (length(unique(pods)) < 3 || !file.exists("/tmp/gate")) {
	got <- future.apply::future_lapply(1:24, function(i) { Sys.sleep(1); list(i^2, Sys.info()[["nodename"]]) }, future.chunk.size = 1)
	stopifnot(identical(vapply(got, "[[", 0, 1), (1:24)^2))
	pods <- vapply(got, "[[", "", 2)
	rounds <- rounds + 1
	cat("round", rounds, "\n")
}
cat(paste0("pod=", unique(pods)), sep = "\n")
`)
	n.awaitCondition("PodsFail", "FailedCreate", "exceeded quota: few")
	s.await("round 1 ")
	n.open("/tmp/gate")
	out := s.wait()
	if names := pods(out); len(names) != 3 {
		t.Errorf("the futures ran in %d pods, want 3:\n%s", len(names), out)
	}
	if n := n.metric("rendezvous_reruns_total"); n != "0" {
		t.Errorf("%s futures ran again", n)
	}
}

// TestScalingDeployment: somebody deletes the Deployment, scales it by hand, pauses it;
// and a helm upgrade leaves the number as it is.
func TestScalingDeployment(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(elastic, "--set rendezvous.demandTimeout=15s")
	chart := filepath.Join(root(t), "charts/future")
	n.sh("kubectl delete deployment/future-worker")
	n.awaitCondition("ScalingFails", "NotFound", "there is no Deployment future-worker")
	out := n.r(session(1, ""))
	if !strings.Contains(out, "R says:") || !strings.Contains(out, "there is no Deployment future-worker") {
		t.Errorf("the R error does not say why:\n%s", out)
	}
	n.sh("helm upgrade --reuse-values test " + chart)
	n.awaitNoCondition()
	s := n.startR(session(2, "/tmp/gate"))
	s.await("computed on 2 pods")

	n.sh("helm upgrade --reuse-values test " + chart)
	if got := n.replicas("future-worker"); got != "2" {
		t.Errorf("%s replicas after an upgrade", got)
	}
	n.sh("kubectl rollout pause deployment/future-worker")
	n.awaitCondition("Paused", "Paused", "pods are added and deleted")
	if out := n.r(session(1, "")); !strings.Contains(out, "computed on 1 pods") {
		t.Errorf("paused:\n%s", out)
	}
	n.sh("kubectl rollout resume deployment/future-worker")
	n.awaitNoCondition()

	// More than are wanted, by hand: they go, and so do those that a session has no use for.
	n.sh("kubectl scale --replicas=4 deployment/future-worker")
	n.awaitCondition("ScaledByOthers", "Raised", "somebody else has set 4 replicas, after")
	n.eventually("no worker pods", func() bool { return n.replicas("future-worker") == "0" })
	n.open("/tmp/gate")
	s.wait()
	if reruns := n.metric("rendezvous_reruns_total"); reruns != "0" {
		t.Errorf("%s reruns", reruns)
	}
}

// TestTwoSchedulers: in one namespace, of two releases with workers of their own, and of
// one release, by hand, with the same workers.
func TestTwoSchedulers(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(elastic, "--set rendezvous.demandTimeout=2m")
	chart := filepath.Join(root(t), "charts/future")
	n.sh("helm install --wait --timeout 3m other " + chart + " --set fullnameOverride=other --set rendezvous.demandTimeout=2m " + elastic)
	t.Cleanup(func() { n.try("helm uninstall other --wait --timeout 2m") })
	in := func(scheduler, code string) string {
		return n.sh("kubectl exec -i " + scheduler + " -c scheduler -- Rscript - <<'R'\n" + code + "\nR")
	}
	for scheduler, workers := range map[string]string{scheduler: "future-worker", "deployment/other-scheduler": "other-worker"} {
		if out := in(scheduler, session(2, "")); !strings.Contains(out, "computed on 2 pods") {
			t.Errorf("%s: %s", scheduler, out)
		}
		// They are told to go when nobody has wanted them for a while.
		if n := n.replicas(workers); n != "2" {
			t.Errorf("%s of %s", n, workers)
		}
	}
	n.sh("helm uninstall other --wait --timeout 2m")

	// The chart refuses it; kubectl does not. Each worker serves one of the two.
	n.sh("helm upgrade --wait --reuse-values test " + chart + " --set worker.autoscaling.min=4")
	n.sh("kubectl scale --replicas=2 " + scheduler)
	n.sh("kubectl rollout status " + scheduler + " --timeout=2m")
	both := strings.Fields(n.sh("kubectl get pods -l component=scheduler,release=test -o name"))
	if len(both) != 2 {
		t.Fatalf("schedulers: %v", both)
	}
	warm := func(scheduler string) string {
		return n.sh("kubectl exec " + scheduler + ` -c rendezvous -- /rendezvous status --json | jq '[.workers[] | select(.state == "warm")] | length'`)
	}
	n.eventually("each has a worker", func() bool {
		a, b := warm(both[0]), warm(both[1])
		if a == "4" || b == "4" {
			n.sh("kubectl delete pod/" + n.workerPods()[0]) // the next one may come to the other
		}
		return a != "0" && b != "0"
	})
	for _, scheduler := range both {
		n.eventually("it says that there are pods which serve another", func() bool {
			return strings.Contains(n.condition(scheduler), "PodsElsewhere, Unconnected: ")
		})
	}
	out := in(both[0], `cat("R says:", tryCatch(rendezvous::cluster(4, timeout = 5), error = conditionMessage), "\n")`)
	if !strings.Contains(out, "R says: timed out after 5 s") || !strings.Contains(out, "serve no session here: does another rendezvous have them") {
		t.Errorf("the R error does not say why:\n%s", out)
	}
	// One computes while both have pods deleted that nobody needs.
	n.sh("kubectl scale --replicas=6 deployment/future-worker")
	if out := in(both[0], strings.ReplaceAll(session(1, ""), "Sys.sleep(2)", "Sys.sleep(60)")); !strings.Contains(out, "computed on 1 pods") {
		t.Error(out)
	}
	n.eventually("four workers", func() bool { return n.replicas("future-worker") == "4" })
	for _, scheduler := range both {
		out := n.sh("kubectl exec " + scheduler + ` -c scheduler -- Rscript -e 'writeLines(grep("^rendezvous_reruns_total ", readLines("http://127.0.0.1:7462/metrics"), value = TRUE))'`)
		if out != "rendezvous_reruns_total 0" {
			t.Errorf("%s: %s", scheduler, out)
		}
	}
}
