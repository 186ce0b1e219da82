package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// rendezvous is the one that is measured.
type rendezvous struct {
	cmd           *exec.Cmd
	proc          procfs.Proc
	agents, admin string // addresses
}

// figures are what the kernel says of it.
type figures struct {
	cpu            float64 // seconds, user and system
	resident, peak int     // bytes
	open           int     // files
}

func startRendezvous(ctx context.Context, o options, dir string) (*rendezvous, error) {
	if o.rendezvous == "" {
		o.rendezvous = filepath.Join(dir, "rendezvous")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", o.rendezvous, "github.com/psock-runtime/psock-runtime/cmd/rendezvous")
		if text, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the rendezvous: %w\n%s", err, text)
		}
	}
	log, err := os.Create(filepath.Join(dir, "rendezvous.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, o.rendezvous, "--agents-address", "127.0.0.1:0", "--api-address", "127.0.0.1:0",
		"--admin-address", "127.0.0.1:0", "--tls-dir", filepath.Join(o.certs, "rendezvous"), "--max-workers", fmt.Sprint(o.workers))
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &rendezvous{cmd: cmd}
	if err := r.awaitUp(ctx, log.Name()); err != nil {
		r.stop()
		return nil, err
	}
	r.proc, err = procfs.NewProc(cmd.Process.Pid)
	return r, err
}

// awaitUp reads its addresses in the log.
func (r *rendezvous) awaitUp(ctx context.Context, log string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for pause(ctx, 20*time.Millisecond) {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			var line struct{ Msg, Agents, Admin string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "rendezvous is up" {
				r.agents, r.admin = line.Agents, line.Admin
				return nil
			}
		}
	}
	text, _ := os.ReadFile(log) // an error shows as an empty log
	return fmt.Errorf("the rendezvous does not come up: %s", text)
}

func (r *rendezvous) stop() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	_ = r.cmd.Wait()
}

func (r *rendezvous) look() (f figures, err error) {
	stat, err := r.proc.Stat()
	if err != nil {
		return f, err
	}
	status, err := r.proc.NewStatus()
	if err != nil {
		return f, err
	}
	f.open, err = r.proc.FileDescriptorsLen()
	f.cpu, f.resident, f.peak = stat.CPUTime(), int(status.VmRSS), int(status.VmHWM)
	return f, err
}

// idle waits, and meanwhile reads the metrics as Prometheus would, if scrape is not 0.
func (r *rendezvous) idle(ctx context.Context, d, scrape time.Duration) (scrapes int, err error) {
	over := time.NewTimer(d)
	defer over.Stop()
	var due <-chan time.Time
	if scrape > 0 {
		ticker := time.NewTicker(scrape)
		defer ticker.Stop()
		due = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return scrapes, ctx.Err()
		case <-over.C:
			return scrapes, nil
		case <-due:
			response, err := http.Get("http://" + r.admin + "/metrics")
			if err != nil {
				return scrapes, err
			}
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if err != nil {
				return scrapes, err
			}
			scrapes++
		}
	}
}

// pause waits; false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
