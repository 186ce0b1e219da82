package link_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"golang.org/x/sync/errgroup"
)

// sizes are those at which something changes: a frame without bytes, one that just
// fits in a TLS record with and without its header, and the largest.
var sizes = []int{
	0, 1, 16<<10 - link.HeaderSize - 1, 16<<10 - link.HeaderSize, 16<<10 - link.HeaderSize + 1,
	16<<10 - 1, 16 << 10, 16<<10 + 1, link.MaxData - 1, link.MaxData,
}

func TestDataSizes(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, rendezvous := pair(t, c, link.Timing{})
		for i, size := range sizes {
			frame := dataFrame(size, byte(i))
			sent := make(chan error, 1)
			go func() {
				err := agent.SendData(frame)
				if err == nil {
					err = agent.SendEOF()
				}
				sent <- err
			}()
			var got []byte
			for {
				piece, err := rendezvous.Next()
				if err != nil {
					t.Fatal(err)
				}
				if piece.Type == link.EOF {
					break
				}
				if len(piece.Payload) == 0 {
					t.Fatal("a Data frame without bytes was handed on")
				}
				got = append(got, piece.Payload...)
			}
			if err := testkit.Receive(t, sent, "a frame to leave"); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, frame[link.HeaderSize:]) {
				t.Fatalf("%d bytes came as %d others", size, len(got))
			}
		}
	})
}

// sendAll sends every size in turn, rounds times. With few bytes between large
// frames the reader's buffers grow, and shrink if it wishes, in every state.
func sendAll(conn *link.Conn, rounds int) error {
	for round := range rounds {
		for i, size := range sizes {
			if err := conn.SendData(dataFrame(size, byte(round*16+i))); err != nil {
				return err
			}
		}
	}
	return conn.Send(link.Exit, link.ExitMessage{Cause: "done"})
}

func everything(rounds int) []byte {
	var all []byte
	for round := range rounds {
		for i, size := range sizes {
			all = append(all, dataFrame(size, byte(round*16+i))[link.HeaderSize:]...)
		}
	}
	return all
}

// receiveAll reads until the Exit of sendAll and counts the other control frames.
func receiveAll(conn *link.Conn, shrink bool) (data []byte, reserves int, err error) {
	for {
		frame, err := conn.Next()
		if err != nil {
			return data, reserves, err
		}
		switch frame.Type {
		case link.Data:
			data = append(data, frame.Payload...)
			if shrink {
				conn.Shrink()
			}
		case link.Reserve:
			if frame.Number() == uint32(reserves) {
				reserves++
			}
		case link.Exit:
			return data, reserves, nil
		}
	}
}

// Data both ways at once, with heartbeats and control frames of other goroutines
// between them.
func TestDataBothWays(t *testing.T) {
	t.Parallel()
	const rounds, reserves = 6, 500
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, rendezvous := pair(t, c, link.Timing{Heartbeat: 100 * time.Microsecond})
		wanted := everything(rounds)
		var group errgroup.Group
		for _, end := range []*link.Conn{agent, rendezvous} {
			end.StartHeartbeat()
			end.StartHeartbeat() // which changes nothing
			numbered := make(chan error, 1)
			group.Go(func() error {
				for n := range uint32(reserves) {
					if err := end.SendNumber(link.Reserve, n); err != nil {
						numbered <- err
						return err
					}
				}
				numbered <- nil
				return nil
			})
			group.Go(func() error {
				for range rounds - 1 {
					if err := end.SendData(dataFrame(0, 0)); err != nil {
						return err
					}
				}
				if err := <-numbered; err != nil {
					return err
				}
				return sendAll(end, rounds)
			})
			group.Go(func() error {
				data, n, err := receiveAll(end, false)
				if n != reserves {
					t.Errorf("got %d reservations in order, want %d", n, reserves)
				}
				if !bytes.Equal(data, wanted) {
					t.Errorf("got %d bytes, or others than the %d sent", len(data), len(wanted))
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	})
}

// Shrink may come at any moment of either direction: with bytes of the next frame
// already read, in the middle of a Data frame, while another goroutine writes.
func TestShrinkLosesNothing(t *testing.T) {
	t.Parallel()
	const rounds = 6
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, rendezvous := pair(t, c, link.Timing{})
		wanted := everything(rounds)
		var group errgroup.Group
		for _, end := range []*link.Conn{agent, rendezvous} {
			group.Go(func() error { return sendAll(end, rounds) })
			group.Go(func() error {
				data, _, err := receiveAll(end, true)
				if !bytes.Equal(data, wanted) {
					t.Errorf("got %d bytes, or others than the %d sent", len(data), len(wanted))
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	})
}

// A frame of two records may be followed by control frames within one read of the
// socket's: they are there after Shrink.
func TestShrinkKeepsTheNextFrame(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, c configs) {
		agent, rendezvous := pair(t, c, link.Timing{})
		const size = 20 << 10
		sent := make(chan error, 1)
		go func() {
			err := agent.SendData(dataFrame(size, 1))
			for n := uint32(0); n < 50 && err == nil; n++ {
				err = agent.SendNumber(link.Reserved, n)
			}
			sent <- err
		}()
		if err := testkit.Receive(t, sent, "the frames to leave"); err != nil {
			t.Fatal(err)
		}
		got, err := take(rendezvous, size)
		if err != nil || !bytes.Equal(got, dataFrame(size, 1)[link.HeaderSize:]) {
			t.Fatalf("%d bytes came as %d others: %v", size, len(got), err)
		}
		for n := range uint32(50) {
			rendezvous.Shrink()
			if got := mustNext(t, rendezvous, link.Reserved).Number(); got != n {
				t.Fatalf("got number %d, want %d", got, n)
			}
		}
	})
}

func BenchmarkSendData(b *testing.B) {
	for _, over := range []struct {
		name string
		make func(testing.TB) configs
	}{
		{"plain", func(testing.TB) configs { return configs{} }},
		{"tls", newConfigs},
	} {
		b.Run(over.name, func(b *testing.B) {
			agent, rendezvous := pair(b, over.make(b), link.Timing{})
			frame := dataFrame(link.MaxData, 0)
			read := make(chan error, 1)
			b.SetBytes(link.MaxData)
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				var got int
				for got < b.N*link.MaxData {
					piece, err := rendezvous.Next()
					if err != nil {
						read <- err
						return
					}
					got += len(piece.Payload)
				}
				read <- nil
			}()
			for range b.N {
				if err := agent.SendData(frame); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-read; err != nil {
				b.Fatal(err)
			}
		})
	}
}
