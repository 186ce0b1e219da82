package broker

import (
	"fmt"
	"testing"
	"time"
)

// A node replaces one other, however often it is asked what it misses: its first worker may end before
// it is bound.
func TestMissedOnce(t *testing.T) {
	c := &cluster{place: place{name: "1"}, nodes: make(map[*node]bool), unreplaced: &unreplaced{plain: 1}}
	b := &Broker{}
	n := &node{cluster: c, again: true}
	for range 2 {
		if lost := b.missedBy(n); lost != "" || c.unreplaced.plain != 0 {
			t.Errorf("it misses %q, with %d nodes without state left", lost, c.unreplaced.plain)
		}
		c.unreplaced.note("worker w was lost") // of another node, meanwhile
	}
	if c.unreplaced.lost != 2 {
		t.Errorf("%d nodes with state are left, want 2", c.unreplaced.lost)
	}
	n = &node{cluster: c, again: true}
	for range 2 {
		if lost := b.missedBy(n); lost != "worker w was lost" || c.unreplaced.lost != 1 {
			t.Errorf("it misses %q, with %d nodes with state left", lost, c.unreplaced.lost)
		}
	}
}

// What is known of clusters without nodes is bounded: in time, and in number.
func TestRememberedIsBounded(t *testing.T) {
	b := &Broker{remembered: make(map[place]*unreplaced)}
	now := time.Now()
	remember := func(name string, now time.Time) place {
		c := &cluster{place: place{name: name}, unreplaced: &unreplaced{lost: 1, why: "lost"}}
		b.remember(c, now)
		return c.place
	}
	first := remember("first", now)
	if b.recall(first, now.Add(rememberFor-1)).lost != 1 || len(b.remembered) != 0 {
		t.Error("it is not known within the hour, or after it was asked for")
	}
	remember("first", now)
	if b.recall(first, now.Add(rememberFor)).lost != 0 || len(b.remembered) != 0 {
		t.Error("it is known after an hour")
	}
	remember("first", now)
	if remember("second", now.Add(rememberFor)); len(b.remembered) != 1 {
		t.Errorf("%d are remembered, want the one of the last hour", len(b.remembered))
	}
	for i := range mostRemembered - 1 {
		b.remembered[place{name: fmt.Sprint(i)}] = &unreplaced{lost: 1, since: now.Add(rememberFor + 1)}
	}
	remember("last", now.Add(rememberFor+1))
	if n := len(b.remembered); n != mostRemembered || b.remembered[place{name: "second"}] != nil {
		t.Errorf("%d are remembered, want %d without the oldest", n, mostRemembered)
	}
}
