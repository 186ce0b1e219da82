package broker_test

import (
	"cmp"
	"fmt"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// R listens on a cluster's port only while it connects its nodes. Another session that gets
// the port afterwards has a cluster of its own, and R processes of its own, whatever either has
// announced.
func TestPortOfALivingCluster(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]broker.Announcement{
		"another user's":           {UID: uid + 1},
		"another user's plan":      {UID: uid + 1, Intent: broker.ForFutures},
		"another session's plan":   {Session: "second", Intent: broker.ForFutures},
		"another session's":        {Session: "second", Intent: broker.ForWorkers},
		"another plan of theirs":   {Cluster: "2", Intent: broker.ForFutures},
		"a session that says none": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startWith(t, func(c *broker.Config) { c.UIDs = []uint32{uid, uid + 1} })
			a := s.computer("a")
			s.eventually("it to be warm", func() bool { return s.count(pool.Warm) == 1 })
			retract, first := s.announced(broker.Announcement{Session: "first", Intent: broker.ForFutures})
			mine := first.connect()
			call(t, mine, introduction)
			a.called(t)
			a.answer(t, "me")
			read(t, mine, "me")
			retract()
			var listener *session
			if second.Port = uint16(first.port); second.Intent == "" {
				listener = s.listen(first.port, int(cmp.Or(second.UID, uid)))
			} else {
				listener = s.listenAs(second)
			}
			theirs := listener.connect()
			call(t, theirs, introduction)
			a.called(t)
			clusters := s.Clusters()
			if len(clusters) != 2 || len(clusters[0].Nodes) != 1 || clusters[0].UID != uid || len(clusters[1].Nodes) != 1 || clusters[1].UID != cmp.Or(second.UID, uid) {
				t.Fatalf("the clusters are %+v", clusters)
			}
			if got, want := s.pool.Workers()[0].Cluster, fmt.Sprintf("cluster %d (port %d)", clusters[1].ID, first.port); got != want {
				t.Errorf("the worker is %s's, want %s's", got, want)
			}
			if n := s.Once(uid, "first", []uint16{uint16(first.port)}, true); n == 0 {
				t.Error("the first session's cluster is not known any more")
			}
			a.answer(t, "me too")
			read(t, theirs, "me too")
			mine.Close()
			s.eventually("the first cluster's end", func() bool { return len(s.Clusters()) == 1 })
			call(t, theirs, asking(1))
			a.called(t)
			a.answer(t, "still me")
			read(t, theirs, "still me")
		})
	}
}

// A node that is made again says of which cluster it is.
func TestNodeMadeAgain(t *testing.T) {
	s := start(t, patience)
	retract, first := s.announced(broker.Announcement{Intent: broker.ForFutures})
	call(t, first.connect(), introduction)
	s.eventually("the cluster to be ready", func() bool { return s.metric("rendezvous_clusters_total") == 1 })
	retract()
	s.listenAs(broker.Announcement{Port: uint16(first.port), Intent: broker.ForFutures}).connect()
	s.eventually("its second node", func() bool {
		clusters := s.Clusters()
		return len(clusters) == 1 && len(clusters[0].Nodes) == 2 && clusters[0].Nodes[1].State == "vacant"
	})
}
