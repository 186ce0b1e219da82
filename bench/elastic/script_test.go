package elastic_test

import "time"

// The script: when what begins and ends.
const (
	firstAt  = time.Minute
	secondAt = 4 * time.Minute
	thirdAt  = 7 * time.Minute
	// From fairAt on the pool is as large as it may be, and the futures have ended that
	// ran when the last sessions came.
	fairAt  = 9 * time.Minute
	lateAt  = 11 * time.Minute
	leaseAt = 12 * time.Minute
	turnsAt = 13*time.Minute + 30*time.Second // the lease has ended
	lessAt  = 15 * time.Minute
	burstAt = 22*time.Minute + 30*time.Second
	lastAt  = 28 * time.Minute
	endAt   = 36 * time.Minute
)

// What sessions are called.
const (
	long   = "long futures"
	short  = "short futures"
	late   = "comes late"
	lease  = "lease"
	stays  = "stays"
	bursts = "burst"
)

var marks = []mark{
	{firstAt, "10 sessions"},
	{secondAt, "10 more"},
	{thirdAt, "20 more"},
	{lessAt, "3 stay"},
	{burstAt, "bursts of 5"},
	{lastAt, "nobody"},
}

// script is sessions of so many nodes each. The pool has 30 times that at most.
func script(nodes int) (loads []load) {
	add := func(n int, kind string, from, until, least, most time.Duration) {
		for range n {
			loads = append(loads, load{kind: kind, nodes: nodes, from: from, until: until, least: least, most: most})
		}
	}
	const s = time.Second
	add(10, long, firstAt, lessAt, 20*s, 40*s)
	add(10, long, secondAt, lessAt, 20*s, 40*s)
	add(20, short, thirdAt, lessAt, 2*s, 6*s)
	add(1, late, lateAt, lessAt, 2*s, 6*s)
	add(3, stays, lessAt-30*s, lastAt, 20*s, 40*s)
	for at := burstAt; at < lastAt; at += 90 * s {
		add(5, bursts, at, at+20*s, 2*s, 6*s)
	}
	return append(loads, load{
		kind: lease, nodes: nodes / 2, from: leaseAt, until: leaseAt + time.Minute, least: 2 * s, most: 6 * s, whole: true,
	})
}

// few is sessions that have to take turns: six on four workers.
func few() (loads []load) {
	const s = time.Second
	for range 3 {
		loads = append(loads,
			load{kind: long, nodes: 4, until: 10 * time.Minute, least: 20 * s, most: 40 * s},
			load{kind: short, nodes: 4, until: 10 * time.Minute, least: 1 * s, most: 3 * s})
	}
	return loads
}
