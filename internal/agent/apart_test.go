package agent_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/agent"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"go.uber.org/zap"
)

// Scratch folders are one agent's, and as they were when it has ended.
func TestScratchFoldersAreRestored(t *testing.T) {
	dir := t.TempDir()
	s := start(t, "echo", func(c *agent.Config) { c.Scratch, c.Slots = []string{dir}, 2 })
	s.await(pool.Warm, 2)
	_, err := agent.New(agent.Config{Log: zap.NewNop(), Metrics: agent.NewMetrics(prometheus.NewRegistry()), Slots: 1, Scratch: []string{dir}})
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second agent: got %v, want an error that names %s", err, dir)
	}
	file := filepath.Join(dir, "of-a-session")
	w := s.bind()
	w.send("hello")
	w.expect("hello")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.End()
	s.eventually("the session's file to go", func() bool {
		_, err := os.Lstat(file)
		return errors.Is(err, fs.ErrNotExist)
	})
	// While no session is there, and none comes.
	w = s.bind()
	w.send("hello")
	w.expect("hello")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.End()
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}
