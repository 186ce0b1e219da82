package pods

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxMessage bounds a message that is kept, in bytes: Explain shows less of it.
const maxMessage = 2 * maxReason

// strip keeps of a pod what Explain, Group and Verify read, so that thousands of them are small: what
// was received has the whole specification, some 10 KB.
func strip(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	kept := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			DeletionTimestamp: pod.DeletionTimestamp,
			Labels:            only(pod.Labels, groupLabel), Annotations: only(pod.Annotations, corev1.PodDeletionCost),
		},
		Spec: corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{
			Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: short(pod.Status.Message),
			PodIPs:                slices.Clone(pod.Status.PodIPs),
			InitContainerStatuses: stripContainers(pod.Status.InitContainerStatuses),
			ContainerStatuses:     stripContainers(pod.Status.ContainerStatuses),
		},
	}
	for _, c := range pod.Status.Conditions {
		switch c.Type {
		case corev1.PodReady, corev1.PodScheduled, corev1.DisruptionTarget:
			kept.Status.Conditions = append(kept.Status.Conditions, corev1.PodCondition{
				Type: c.Type, Status: c.Status, Reason: c.Reason, Message: short(c.Message),
			})
		}
	}
	return kept, nil
}

func stripContainers(all []corev1.ContainerStatus) []corev1.ContainerStatus {
	var kept []corev1.ContainerStatus
	for _, c := range all {
		kept = append(kept, corev1.ContainerStatus{
			Name: c.Name, Ready: c.Ready, RestartCount: c.RestartCount,
			State: stripState(c.State), LastTerminationState: stripState(c.LastTerminationState),
		})
	}
	return kept
}

func stripState(s corev1.ContainerState) corev1.ContainerState {
	kept := corev1.ContainerState{Running: s.Running}
	if w := s.Waiting; w != nil {
		kept.Waiting = &corev1.ContainerStateWaiting{Reason: w.Reason, Message: short(w.Message)}
	}
	if t := s.Terminated; t != nil {
		kept.Terminated = &corev1.ContainerStateTerminated{
			Reason: t.Reason, Message: short(t.Message), ExitCode: t.ExitCode, FinishedAt: t.FinishedAt,
		}
	}
	return kept
}

// only is a copy of one entry of all.
func only(all map[string]string, key string) map[string]string {
	value, found := all[key]
	if !found {
		return nil
	}
	return map[string]string{key: short(value)}
}

// short is a copy of the beginning of s; a part of s itself would keep all of it.
func short(s string) string { return strings.Clone(s[:min(len(s), maxMessage)]) }
