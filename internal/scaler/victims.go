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

// choose names up to n pods that may go: all that a ReplicaSet would delete before one
// that is in use, in its order: those that are marked already come first. Then, of pods
// that are ready, those whose nodes are left empty by it, and those that would be missed
// least.
func choose(v view, n int, marked map[string]mark) []victim {
	if n <= 0 {
		return nil
	}
	idle := v.idle()
	var candidates [classes][]pods.Status
	var inUse [classes]bool
	stays := make(map[string]int) // pods by node
	all := make(map[string]int)
	for _, pod := range v.pods {
		if pod.Leaves {
			continue
		}
		all[pod.Node]++
		c := class(pod)
		_, free := idle[pod.Name]
		// A pod that is ready has an agent that is connected: if not here, then elsewhere.
		if v.agents[pod.Name] && !free || !v.agents[pod.Name] && pod.Ready {
			inUse[c] = true
			stays[pod.Node]++
			continue
		}
		candidates[c] = append(candidates[c], pod)
	}
	unmarked := func(pod pods.Status) int {
		if _, found := marked[pod.Name]; found {
			return 0
		}
		return 1
	}
	var victims []victim
	for c, some := range candidates {
		slices.SortFunc(some, func(a, b pods.Status) int {
			return cmp.Or(cmp.Compare(unmarked(a), unmarked(b)),
				cmp.Compare(stays[a.Node], stays[b.Node]), cmp.Compare(all[a.Node], all[b.Node]), cmp.Compare(a.Node, b.Node),
				cmp.Compare(idle[a.Name], idle[b.Name]), cmp.Compare(a.Name, b.Name))
		})
		for _, pod := range some[:min(len(some), n-len(victims))] {
			victims = append(victims, victim{pod.Name, c})
		}
		if inUse[c] {
			break
		}
	}
	return victims
}
