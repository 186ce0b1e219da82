// Package elastic simulates an elastic pool of workers under a scripted load: the real
// internal/pool and internal/scaler, agents that speak the real protocol (internal/link)
// and have no R, sessions that do with workers what internal/relay does for them, and a
// model of what Kubernetes does with a Deployment. Time is testing/synctest's, so that
// three quarters of an hour take a minute and nothing depends on the machine's speed.
//
//	go test ./bench/elastic -v                                    # 300 agents: it takes seconds
//	go test ./bench/elastic -v -full -svg ../../docs/elastic.svg  # as docs/scaling.md has it
package elastic_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

var (
	full = flag.Bool("full", false, "3,000 agents instead of 300, and 10,000 in the measurement of costs")
	svg  = flag.String("svg", "", "where to draw the picture; a path relative to bench/elastic")
)

// TestElastic runs the script and prints what became of it.
func TestElastic(t *testing.T) {
	most := 300
	if *full {
		most = 3000
	}
	var w *world
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(t, most, 5*time.Minute)
		w.run(script(most/30), end)
	})
	fmt.Println("x")
	steps := w.changes(marks, end)
	for _, s := range steps {
		t.Log(s)
	}
	for _, k := range w.kinds() {
		t.Log(k, w.mean(k, 540*time.Second, 900*time.Second))
	}
	t.Log(w.fairness(540*time.Second, 900*time.Second))
	t.Log(w.kube.scales, w.kube.torn)
	if *svg != "" {
		if err := os.WriteFile(*svg, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_ = context.Background
}
