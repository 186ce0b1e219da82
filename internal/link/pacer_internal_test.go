package link

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"golang.org/x/sync/errgroup"
)

func seated(p *Pacer, n int) []*Conn {
	all := make([]*Conn, n)
	for i := range all {
		all[i] = &Conn{closed: make(chan struct{})}
		p.join(all[i])
	}
	return all
}

func sizes(p *Pacer) (used, least, most, sum int) {
	least = 1 << 30
	for _, turn := range p.turns {
		if len(turn) > 0 {
			used++
		}
		least, most, sum = min(least, len(turn)), max(most, len(turn)), sum+len(turn)
	}
	return used, least, most, sum
}

// Few connections have few turns, and many as many in each.
func TestPacerSeats(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ connections, used, least, most int }{
		{1, 1, 0, 1},
		{turnSize, 1, 0, turnSize},
		{turnSize + 1, 2, 0, turnSize},
		{turns * turnSize, turns, turnSize, turnSize},
		{turns*turnSize + 3*turns, turns, turnSize + 3, turnSize + 3},
	} {
		p := NewPacer(time.Second)
		seated(p, test.connections)
		used, least, most, sum := sizes(p)
		if used != test.used || least != test.least || most != test.most || sum != test.connections {
			t.Errorf("%d connections have %d turns of %d to %d, %d in all", test.connections, used, least, most, sum)
		}
	}
}

// Connections come and go; each that is there has one seat, the one that it knows.
func TestPacerSeatsChange(t *testing.T) {
	t.Parallel()
	p := NewPacer(time.Second)
	there := seated(p, 1000)
	for range 5000 {
		if rand.IntN(2) == 0 && len(there) > 0 {
			i := rand.IntN(len(there))
			p.leave(there[i])
			p.leave(there[i]) // which changes nothing
			there[i] = there[len(there)-1]
			there = there[:len(there)-1]
		} else {
			there = append(there, seated(p, 1)...)
		}
	}
	p.leave(&Conn{}) // one that has never had a seat
	if _, _, _, sum := sizes(p); sum != len(there) {
		t.Errorf("%d seats for %d connections", sum, len(there))
	}
	for _, c := range there {
		if p.turns[c.turn][c.seat] != c {
			t.Fatal("a connection's seat is another's")
		}
	}
}

// One that is closed before it has a seat gets none.
func TestPacerRefusesClosed(t *testing.T) {
	t.Parallel()
	p := NewPacer(time.Second)
	c := &Conn{closed: make(chan struct{})}
	close(c.closed)
	p.join(c)
	if _, _, _, sum := sizes(p); sum != 0 {
		t.Error("a closed connection has a seat")
	}
}

func TestPacerFindsTheNextTurn(t *testing.T) {
	t.Parallel()
	p := NewPacer(time.Second)
	if number, some := p.after(7); number != 7 || some {
		t.Errorf("an empty one: %d, %v", number, some)
	}
	c := &Conn{}
	p.turns[3] = []*Conn{c}
	for next, wanted := range map[int]int{0: 3, 3: 3, 4: turns + 3, 10*turns + 4: 11*turns + 3} {
		if number, some := p.after(next); number != wanted || !some {
			t.Errorf("after %d: %d, %v, want %d", next, number, some, wanted)
		}
	}
}

// What the records of the handshake took is given back: ten thousand connections that
// are parked would have 180 MB of it.
func TestHandshakeBuffersAreGivenBack(t *testing.T) {
	t.Parallel()
	server, client := testkit.Certificates(t)
	listener := testkit.Listen(t)
	var accepted *Conn
	var group errgroup.Group
	group.Go(func() error {
		raw, err := listener.Accept()
		if err == nil {
			accepted, err = Accept(t.Context(), raw, server, Timing{})
		}
		return err
	})
	dialled, err := Dial(t.Context(), listener.Addr().String(), client, Timing{})
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if n := len(accepted.records.in); n != idleBuffer {
		t.Errorf("the buffer below TLS has %d bytes after the handshake, want %d", n, idleBuffer)
	}
	// A record that is a little larger does not take as much as the largest.
	if err := dialled.Send(State, StateMessage{State: Failed, Reason: strings.Repeat("x", 500)}); err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Next(); err != nil {
		t.Fatal(err)
	}
	if n := len(accepted.records.in); n > 2*idleBuffer {
		t.Errorf("the buffer below TLS has %d bytes after a small frame", n)
	}
}
