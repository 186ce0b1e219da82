package r_test

import (
	"net/http"
	"strings"
	"testing"
)

// planOf makes two plans that equal each other: again, and one that has nodes. equal() compares as plan() does.
// newer is whether this future recognizes a plan that it has, which it does since 1.40 only.
const planOf = `suppressMessages(library(future)); home <- asNamespace("future")
	newer <- exists("all.equal.FutureStrategyList", home, inherits = FALSE)
	stack <- function(...) structure(list(structure(function(..., manual = TRUE) NULL, class = c("cluster", "future", "function"), ...)), class = c("FutureStrategyList", "list"))
	cl <- parallelly::makeClusterPSOCK(2); port <- sub(".*:", "", summary(cl[[1]]$con)$description)
	again <- stack(); before <- stack(backend = list(workers = cl))
	equal <- function(new = again) isTRUE(if (newer) all.equal(new, before) else TRUE)
	`

// The same plan again asks what a plan asks, in its own place: what other clusters of the session have is not free.
func TestSamePlanAsksAsPlan(t *testing.T) {
	r := serve(t, "7")
	r.plan = "2"
	got, messages := run(t, r.address(), planOf+`own <- parallelly::makeClusterPSOCK(1)
		out(newer, port, equal()); parallel::stopCluster(own); parallel::stopCluster(cl)`)
	if len(got) != 3 {
		t.Fatalf("R says %q, %s", got, messages)
	}
	wantFields(t, got[2:], "TRUE")
	if got[0] == "TRUE" {
		wantQuestions(t, r, "GET /v1/workers?ports="+got[1]+"&plan=true")
	} else {
		wantQuestions(t, r)
	}
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// A plan with another number of workers is another plan, whoever gives the number.
func TestSamePlanWithAnotherNumber(t *testing.T) {
	r := serve(t, "2")
	r.plan = "3"
	got, messages := run(t, r.address(), planOf+`changed <- !equal()
		Sys.setenv(NSLOTS = 2); slots <- equal(); Sys.unsetenv("NSLOTS")
		options(parallelly.availableWorkers.custom = function() c("localhost", "localhost")); users <- equal()
		out(changed == newer, slots, users); parallel::stopCluster(cl)`)
	wantFields(t, got, "TRUE", "TRUE", "TRUE")
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// Another plan asks nothing, and the same one stays without a word if the rendezvous does not answer.
func TestSamePlanWithoutRendezvous(t *testing.T) {
	r := serve(t, "2")
	got, messages := run(t, r.address(), planOf+`out(newer, equal(structure(list(sequential), class = c("FutureStrategyList", "list")))); parallel::stopCluster(cl)`)
	if len(got) != 2 || got[0] == got[1] {
		t.Errorf("R says %q, %s", got, messages)
	}
	wantQuestions(t, r)
	r.mu.Lock()
	r.status = http.StatusInternalServerError
	r.mu.Unlock()
	for _, api := range []string{nobody(t), r.address()} {
		got, messages = run(t, api, planOf+`out(equal()); parallel::stopCluster(cl)`)
		wantFields(t, got, "TRUE")
		if strings.Contains(messages, "psock-runtime") {
			t.Errorf("R says %q", messages)
		}
	}
}
