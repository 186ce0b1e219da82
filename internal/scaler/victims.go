package scaler

import (
	"cmp"
	"slices"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	corev1 "k8s.io/api/core/v1"
)

// victim is a pod that is to go.
type victim struct {
	pod   string
	class int
}

// classes is how many there are.
const classes = 5

// class is a pod's place in the order in which a ReplicaSet deletes pods. Only within a
// class does it look at their deletion cost.
func class(pod pods.Status) int {
	switch {
	case pod.Node == "":
		return 0
	case pod.Phase == corev1.PodPending:
		return 1
	case pod.Phase != corev1.PodRunning:
		return 2
	case !pod.Ready:
		return 3
	}
	return 4
}

// candidate is a pod that may go, with what its place among others depends on.
type candidate struct {
	pod, node   string
	marked      int // 0 if it is marked already
	stays, pods int // on its node: that are in use, and in all
	idle        int // its agent's place
}

func (a candidate) compare(b candidate) int {
	if c := cmp.Or(cmp.Compare(a.marked, b.marked), cmp.Compare(a.stays, b.stays), cmp.Compare(a.pods, b.pods)); c != 0 {
		return c
	}
	if c := cmp.Compare(a.node, b.node); c != 0 {
		return c
	}
	if c := cmp.Compare(a.idle, b.idle); c != 0 {
		return c
	}
	return cmp.Compare(a.pod, b.pod)
}

// choose names up to n pods that may go: all that a ReplicaSet would delete before one
// that is in use, in its order: those that are marked already come first. Then, of pods
// that are ready, those whose nodes are left empty by it, and those that would be missed
// least.
func choose(v view, n int, marked map[string]mark) []victim {
	if n <= 0 {
		return nil
	}
	idle := v.idle()
	var candidates [classes][]candidate
	var inUse [classes]bool
	stays := make(map[string]int) // pods by node
	all := make(map[string]int)
	for _, pod := range v.pods {
		if pod.Leaves {
			continue
		}
		all[pod.Node]++
		c := class(pod)
		place, free := idle[pod.Name]
		// A pod that is ready has an agent that is connected: if not here, then elsewhere.
		if v.agents[pod.Name] && !free || !v.agents[pod.Name] && pod.Ready {
			inUse[c] = true
			stays[pod.Node]++
			continue
		}
		one := candidate{pod: pod.Name, node: pod.Node, marked: 1, idle: place}
		if _, found := marked[pod.Name]; found {
			one.marked = 0
		}
		candidates[c] = append(candidates[c], one)
	}
	var victims []victim
	for c, some := range candidates {
		for i := range some {
			some[i].stays, some[i].pods = stays[some[i].node], all[some[i].node]
		}
		slices.SortFunc(some, candidate.compare)
		for _, one := range some[:min(len(some), n-len(victims))] {
			victims = append(victims, victim{one.pod, c})
		}
		if inUse[c] {
			break
		}
	}
	return victims
}
