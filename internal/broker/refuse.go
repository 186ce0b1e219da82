package broker

import (
	"context"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
	"go.uber.org/zap"
)

// refuse answers the session in a worker's place: every call gets an R error that
// says why there is no worker, until the session closes the connection.
// makeClusterPSOCK() calls each node once when it has them all, and makes the
// answer its own error.
//
// It fails with an errForeign when the listener wants no worker: nobody has looked
// before, if there was none to connect it with.
func (n *node) refuse(ctx context.Context, log *zap.Logger, opening []byte) error {
	b := n.broker
	message := b.refusal(n.cluster)
	if message == "" {
		message = b.unmet(n.cluster, time.Since(n.demand.seen))
	}
	b.mu.Lock()
	n.refused = true
	b.mu.Unlock()
	// Before R is connected, whose next node may be seen before that is.
	b.refuseRest(n.cluster, message)
	if n.client == nil {
		if err := n.connect(ctx); err != nil {
			return err
		}
		if err := n.recognise(ctx); err != nil {
			return err
		}
	}
	b.config.Metrics.unmet.Inc()
	log.Warn("no worker for a node, its session gets an R error", zap.String("error", message))
	stop := context.AfterFunc(ctx, func() { n.client.Close() })
	defer stop()
	if opening == nil {
		f := <-n.first
		if f.err != nil {
			return errGone
		}
		opening = f.frame
	}
	n.answer(opening[relay.Headroom:], message)
	return nil
}

// answer reads calls, the first of which begin with p, and answers each with
// message as an error.
func (n *node) answer(p []byte, message string) {
	var scanner psock.Scanner
	buffer := make([]byte, 4096)
	for {
		for len(p) > 0 {
			read, done := scanner.Scan(p)
			p = p[read:]
			if !done {
				continue
			}
			switch m := scanner.Message(); m.Kind {
			case psock.KindExec:
				if _, err := n.client.Write(psock.AppendError(nil, message, m.XDR)); err != nil {
					return
				}
			case psock.KindDone:
				return
			}
		}
		if scanner.Opaque() != nil {
			return
		}
		read, err := n.client.Read(buffer)
		if read == 0 && err != nil {
			return
		}
		p = buffer[:read]
	}
}

// refuseRest has the nodes of c answered with message that are next to want a worker.
func (b *Broker) refuseRest(c *cluster, message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.refusal, c.refusedAt = message, time.Now()
}
