package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"golang.org/x/sync/errgroup"
)

// answer is what R 4.2.2 answers a call whose result is NULL.
//
//go:embed testdata/answer.bin
var answer []byte

// fakes is the process of the fake agents.
type fakes struct{ cmd *exec.Cmd }

// startAgents returns when all workers are parked, and how often they have dialled.
func startAgents(ctx context.Context, o options, r *rendezvous) (f *fakes, dials int, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	cmd := exec.CommandContext(ctx, self, "-agents", r.agents, "-certs", o.certs, "-workers", fmt.Sprint(o.workers), "-dialling", fmt.Sprint(o.dialling))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	f = &fakes{cmd}
	if _, err := fmt.Fscanf(out, "parked after %d dials\n", &dials); err != nil {
		f.stop()
		return nil, 0, fmt.Errorf("the fake agents have ended: %w", err)
	}
	return f, dials, nil
}

func (f *fakes) stop() {
	_ = f.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	_ = f.cmd.Wait()
}

// serveAgents is what the process of the fake agents does. It says so when all their
// workers are parked.
func serveAgents(ctx context.Context, o options, out io.Writer) error {
	material, err := mtls.Load(filepath.Join(o.certs, mtls.WorkerDir), mtls.WithRole(mtls.ClientRole))
	if err != nil {
		return err
	}
	config := material.ClientConfig()
	// Each agent is a process of its own, and its first handshake a full one.
	config.ClientSessionCache = nil
	group, ctx := errgroup.WithContext(ctx)
	parked := make(chan int, o.workers)
	turns := make(chan struct{}, o.dialling)
	for i := range o.workers {
		group.Go(func() error {
			for first := true; ; first = false {
				turns <- struct{}{}
				a, dials := dial(ctx, o.agents, config, i)
				<-turns
				if a == nil {
					return nil
				}
				if first {
					parked <- dials
				}
				stop := context.AfterFunc(ctx, func() { a.Close() })
				err := a.serve()
				stop()
				if ctx.Err() != nil {
					return nil
				}
				a.Close()
				fmt.Fprintf(os.Stderr, "agent %d lost its connection: %v\n", i, err)
			}
		})
	}
	group.Go(func() error {
		dials := 0
		for range o.workers {
			select {
			case n := <-parked:
				dials += n
			case <-ctx.Done():
				return nil
			}
		}
		_, err := fmt.Fprintf(out, "parked after %d dials\n", dials)
		return err
	})
	return group.Wait()
}

// dial dials at an agent's pace until it is let in; it returns nil when ctx ends.
func dial(ctx context.Context, address string, config *tls.Config, i int) (a *agent, dials int) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 600*time.Millisecond) {
		dials++
		if a, err := park(ctx, address, config, i); err == nil {
			return a, dials
		}
		if !pause(ctx, wait*7/10+rand.N(wait*6/10)) {
			return nil, dials
		}
	}
}

// agent is a fake one with one slot.
type agent struct {
	*link.Conn
}

// park dials and says that its worker is warm.
func park(ctx context.Context, address string, config *tls.Config, i int) (*agent, error) {
	conn, err := link.Dial(ctx, address, config, link.Timing{})
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("future-worker-7d4f9c-%05d", i)
	err = conn.Send(link.Hello, link.HelloMessage{
		Version: link.Version, Agent: name, Instance: "of-" + name, Slots: 1, Group: "default", Build: "bench",
		Node: fmt.Sprintf("node-%03d", i/32), R: "4.5.1", Silence: int(link.Patience / time.Second),
	})
	var welcome link.WelcomeMessage
	if err == nil {
		var frame link.Frame
		if frame, err = conn.Next(); err == nil && frame.Type != link.Welcome {
			err = fmt.Errorf("%s: %s", frame.Type, frame.Payload)
		}
		if err == nil {
			welcome, err = link.Decode[link.WelcomeMessage](frame.Type, frame.Payload)
		}
	}
	a := &agent{Conn: conn}
	if err == nil {
		conn.StartHeartbeat()
		err = a.warm()
	}
	if err == nil && welcome.Usage {
		err = conn.Send(link.Usage, link.UsageMessage{MemoryBytes: 50 << 20})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("agent %d: %w", i, err)
	}
	return a, nil
}

func (a *agent) warm() error {
	return a.Send(link.State, link.StateMessage{State: link.Warm, PID: 17, R: "4.5.1"})
}

// serve does what an agent does whose worker answers each call at once.
func (a *agent) serve() error {
	value := append(make([]byte, link.HeaderSize), answer...)
	for {
		frame, err := a.Next()
		if err != nil {
			return err
		}
		switch frame.Type {
		case link.Reserve:
			err = a.SendNumber(link.Reserved, frame.Number())
		case link.Release:
		case link.Data:
			err = a.SendData(value)
		case link.EOF:
			err = a.replace()
		}
		if err != nil {
			return err
		}
	}
}

// replace is the end of a session's worker and the start of the next one.
func (a *agent) replace() error {
	err := a.SendEOF()
	if err == nil {
		err = a.Send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
	}
	if err == nil {
		err = a.Send(link.State, link.StateMessage{State: link.Starting})
	}
	if err == nil {
		err = a.warm()
	}
	return err
}
