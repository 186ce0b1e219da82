package elastic_test

import "time"

// end of the script.
const end = 36 * time.Minute

// script is the load: sessions of a number of nodes each, the maximum being 30 times that.
func script(nodes int) (loads []load) {
	add := func(n int, l load) {
		for range n {
			loads = append(loads, l)
		}
	}
	s := time.Second
	long := load{kind: "long futures", nodes: nodes, least: 20 * s, most: 40 * s}
	short := load{kind: "short futures", nodes: nodes, least: 2 * s, most: 6 * s}
	with := func(l load, from, until time.Duration) load {
		l.from, l.until = from, until
		return l
	}
	add(10, with(long, 60*s, 900*s))
	add(10, with(long, 240*s, 900*s))
	add(20, with(short, 420*s, 900*s))
	late := with(short, 660*s, 900*s)
	late.kind = "late"
	add(1, late)
	lease := load{kind: "lease", nodes: nodes, from: 720 * s, until: 840 * s, least: 2 * s, most: 6 * s, whole: true}
	add(1, lease)
	add(3, with(long, 840*s, 1680*s))
	for at := 1350 * s; at < 1680*s; at += 90 * s {
		burst := with(short, at, at+20*s)
		burst.kind = "bursts"
		add(5, burst)
	}
	return loads
}

var marks = []mark{
	{60 * time.Second, "10 sessions begin"},
	{240 * time.Second, "10 more"},
	{420 * time.Second, "20 more, with short futures"},
	{900 * time.Second, "all but 3 end"},
	{1350 * time.Second, "bursts"},
	{1680 * time.Second, "all end"},
}
