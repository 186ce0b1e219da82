package pods

import (
	"fmt"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
)

// maxReason bounds an explanation, in bytes: several go into one R error, which R
// cuts at 8 KB, and kubelet's messages can be long.
const maxReason = 240

// Explain says in one line why pod is no working worker, Kubernetes' own word for it
// first ("ImagePullBackOff: Back-off pulling image ..."), "" when it is ready.
func Explain(pod *corev1.Pod) string { return OneLine(explain(pod)) }

func explain(pod *corev1.Pod) string {
	switch {
	case pod.Status.Reason != "": // Evicted, NodeLost, Shutdown, ...
		return because(pod.Status.Reason, pod.Status.Message)
	case pod.DeletionTimestamp != nil:
		if why := disrupted(pod); why != "" { // why it is being deleted
			return why
		}
		return "Terminating"
	}
	if ready := condition(pod, corev1.PodReady); ready != nil && ready.Status == corev1.ConditionTrue {
		return ""
	}
	if why := disrupted(pod); why != "" {
		return why
	}
	if c := condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		return because(c.Reason, c.Message)
	}
	containers := append(append([]corev1.ContainerStatus{}, pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...)
	for _, c := range containers {
		if why := explainContainer(c); why != "" {
			return why
		}
	}
	if nodeSilent(pod) {
		return "NodeNotReady: " + pod.Spec.NodeName + " does not answer"
	}
	if pod.Status.Phase == corev1.PodRunning {
		return "not ready yet"
	}
	return string(pod.Status.Phase)
}

// lost reports whether pod's state explains that a worker which was there is no more:
// the pod goes or has gone, its container does not run, its node is silent. A pod that
// is slow to be ready has lost nothing by that.
func lost(pod *corev1.Pod) bool {
	if pod.Status.Reason != "" || pod.DeletionTimestamp != nil || nodeSilent(pod) {
		return true
	}
	ready := condition(pod, corev1.PodReady)
	if (ready == nil || ready.Status != corev1.ConditionTrue) && disrupted(pod) != "" {
		return true
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Terminated != nil || c.State.Waiting != nil && c.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

// disrupted says who is about to end the pod, "" for nobody: a drain, a preemption, the
// control plane after its node was silent.
func disrupted(pod *corev1.Pod) string {
	if c := condition(pod, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		return because(c.Reason, c.Message)
	}
	return ""
}

// nodeSilent reports whether the control plane, and not kubelet, has said that the pod
// is not ready: every container still is by kubelet's last word.
func nodeSilent(pod *corev1.Pod) bool {
	c := condition(pod, corev1.PodReady)
	return c != nil && c.Status != corev1.ConditionTrue && c.Reason == "" &&
		len(pod.Status.ContainerStatuses) > 0 && !unready(pod.Status.ContainerStatuses)
}

// unready reports whether a container says of itself that it is not ready.
func unready(containers []corev1.ContainerStatus) bool {
	for _, c := range containers {
		if !c.Ready && c.State.Terminated == nil {
			return true
		}
	}
	return false
}

// explainContainer says what keeps one container from running, "" for nothing.
func explainContainer(c corev1.ContainerStatus) string {
	switch {
	case c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" && c.LastTerminationState.Terminated != nil:
		return fmt.Sprintf("CrashLoopBackOff: container %s ended %d times, the last time by %s", c.Name, c.RestartCount, ended(c.LastTerminationState.Terminated))
	case c.State.Waiting != nil && c.State.Waiting.Reason != "PodInitializing":
		return because(c.State.Waiting.Reason, c.State.Waiting.Message)
	case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
		return fmt.Sprintf("container %s ended by %s", c.Name, ended(c.State.Terminated))
	case c.State.Running != nil && !c.Ready && c.LastTerminationState.Terminated != nil:
		return "restarted after " + ended(c.LastTerminationState.Terminated)
	}
	return ""
}

// ended says how a container ended: "OOMKilled, exit code 137".
func ended(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("%s, exit code %d", t.Reason, t.ExitCode)
	if t.Message != "" {
		text += ": " + t.Message
	}
	return text
}

func because(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + message
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// OneLine bounds s and frees it of what does not belong into a log line or an R error.
func OneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}
