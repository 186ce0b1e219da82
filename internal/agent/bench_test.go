package agent_test

import (
	"encoding/hex"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/agent"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// done is what stopCluster() sends: serialize(list(type = "DONE", data = NULL, tag = NULL)).
const done = "420a030000000202040000050300050000005554462d3813020000030000001000000001000000090004000400000044" +
	"4f4e45fe000000fe000000020400000100000009000400050000006e616d657310000000030000000900040004000000" +
	"747970650900040004000000646174610900040003000000746167fe000000"

// BenchmarkTurn is the time from a session's end to the next warm worker, with R: in
// milliseconds the median and the least of the whole, of the old R's end, of what comes
// between, and of the new R's start.
func BenchmarkTurn(b *testing.B) {
	rscript, err := exec.LookPath("Rscript")
	if err != nil {
		b.Fatal(err)
	}
	message, err := hex.DecodeString(done)
	if err != nil {
		b.Fatal(err)
	}
	core, logs := observer.New(zap.InfoLevel)
	s := start(b, "", func(c *agent.Config) {
		c.Log, c.Env = zap.New(core), os.Environ()
		c.Command = psock.Command{Rscript: rscript, Preload: []string{"future"}}
	})
	s.await(pool.Warm, 1)
	var turns, ends, betweens, starts []time.Duration
	for b.Loop() {
		b.StopTimer()
		session := s.bind()
		logs.TakeAll()
		b.StartTimer()
		began := time.Now()
		session.send(string(message))
		session.End()
		s.eventually("the end of the worker", func() bool { return logs.FilterMessage("worker ready").Len() == 1 })
		s.await(pool.Warm, 1)
		ended := logs.FilterMessage("worker ended").All()[0].Time.Sub(began)
		ready := logs.FilterMessage("worker ready").All()[0]
		start := ready.ContextMap()["took"].(time.Duration)
		turns, ends, starts = append(turns, time.Since(began)), append(ends, ended), append(starts, start)
		betweens = append(betweens, ready.Time.Sub(began)-ended-start)
	}
	for unit, all := range map[string][]time.Duration{"turn-ms": turns, "end-ms": ends, "between-ms": betweens, "start-ms": starts} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, unit)
		b.ReportMetric(float64(all[0].Microseconds())/1000, "min-"+unit)
	}
}
