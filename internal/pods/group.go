package pods

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
)

// groupLabel is the label that names a pod's group of workers. A pod without it is of
// the default group, as an agent that announces none.
const (
	groupLabel   = "group"
	defaultGroup = "default"
)

// Status is one worker pod as whoever scales its Deployment sees it.
type Status struct {
	Name   string
	Node   string // "" before it is assigned to one
	Phase  corev1.PodPhase
	Ready  bool
	Leaves bool   // it is being deleted, or has ended: its ReplicaSet does not count it
	Cost   string // its annotation controller.kubernetes.io/pod-deletion-cost
	Reason string // why it is not ready, see Explain
}

func group(pod *corev1.Pod) string { return cmp.Or(pod.Labels[groupLabel], defaultGroup) }

func status(pod *corev1.Pod) Status {
	ready := condition(pod, corev1.PodReady)
	return Status{
		Name: pod.Name, Node: pod.Spec.NodeName, Phase: pod.Status.Phase,
		Ready:  ready != nil && ready.Status == corev1.ConditionTrue,
		Leaves: pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded,
		Cost:   pod.Annotations[corev1.PodDeletionCost], Reason: Explain(pod),
	}
}

// Group is every worker pod of a group, in no order.
func (w *Watcher) Group(name string) []Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Status, 0, len(w.pods))
	for _, s := range w.pods {
		if s.gone.IsZero() && s.group == name {
			all = append(all, s.Status)
		}
	}
	return all
}
