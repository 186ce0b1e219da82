package pods

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func terminated(reason string, code int32) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code}}
}

var running = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}

// Statuses as kubelet, scheduler and controllers of Kubernetes 1.34 write them.
func TestStatusesAreExplained(t *testing.T) {
	for name, tc := range map[string]struct {
		status corev1.PodStatus
		want   string
	}{
		"ready": {corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}, ""},
		"new": {corev1.PodStatus{Phase: corev1.PodPending}, "Pending"},
		"no room": {corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes are available: 2 Insufficient cpu."}}},
			"Unschedulable: 0/2 nodes are available: 2 Insufficient cpu."},
		"no image": {corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: waiting("ImagePullBackOff", `Back-off pulling image "x:1"`)}}},
			`ImagePullBackOff: Back-off pulling image "x:1"`},
		"no image of the agent": {corev1.PodStatus{Phase: corev1.PodPending,
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "agent", State: waiting("ErrImageNeverPull", "")}},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "worker", State: waiting("PodInitializing", "")}}},
			"ErrImageNeverPull"},
		"starting": {corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: waiting("ContainerCreating", "")}}}, "ContainerCreating"},
		"killed for memory": {corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: terminated("OOMKilled", 137)}}}, "container worker ended by OOMKilled, exit code 137"},
		"back after it": {corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: running, RestartCount: 1, LastTerminationState: terminated("OOMKilled", 137)}}}, "restarted after OOMKilled, exit code 137"},
		"crash loop": {corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: waiting("CrashLoopBackOff", "back-off 10s"), RestartCount: 3, LastTerminationState: terminated("Error", 2)}}},
			"CrashLoopBackOff: container worker ended 3 times, the last time by Error, exit code 2"},
		"evicted": {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: memory."},
			"Evicted: The node was low on resource: memory."},
		"preempted": {corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler", Message: "higher priority"}}},
			"PreemptionByScheduler: higher priority"},
		"node silent": {corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "worker", State: running, Ready: true}}},
			"NodeNotReady: n1 does not answer"},
		"warming up": {corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady"}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "worker", State: running}}}, "not ready yet"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n1"}, Status: tc.status}
		if got := Explain(pod); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// A pod that is being deleted: who deletes it is known where Kubernetes says so, though
// the pod is ready to its last second.
func TestExplainDeleted(t *testing.T) {
	now := metav1.Now()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: ready}
	if got := Explain(pod); got != "Terminating" {
		t.Errorf("%q", got)
	}
	pod.Status.Conditions = append([]corev1.PodCondition{}, pod.Status.Conditions...)
	for _, tc := range [][3]string{
		{"EvictionByEvictionAPI", "Eviction API: evicting", "EvictionByEvictionAPI: Eviction API: evicting"},
		{"DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", "DeletionByTaintManager: Taint manager: deleting due to NoExecute taint"},
	} {
		pod.Status.Conditions = append(pod.Status.Conditions[:1], corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: tc[0], Message: tc[1]})
		if got := Explain(pod); got != tc[2] || !lost(pod) {
			t.Errorf("%q, want %q", got, tc[2])
		}
	}
	// An eviction that was called off.
	pod.DeletionTimestamp = nil
	if got := Explain(pod); got != "" || lost(pod) {
		t.Errorf("ready: %q", got)
	}
}

// What explains the loss of a worker, and what is only a pod that is not ready.
func TestReasonOfALostWorker(t *testing.T) {
	for name, tc := range map[string]struct {
		status corev1.PodStatus
		want   bool
	}{
		"ready":   {ready, false},
		"no room": {noRoom, false},
		"killed":  {oom, true},
		"evicted": {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}, true},
		"warming up again": {corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: running, RestartCount: 1, LastTerminationState: terminated("OOMKilled", 137)}}}, false},
		"crash loop": {corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: waiting("CrashLoopBackOff", ""), LastTerminationState: terminated("Error", 1)}}}, true},
		"no image yet": {corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: waiting("ImagePullBackOff", "")}}}, false},
		"node silent": {corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "worker", State: running, Ready: true}}}, true},
	} {
		if got := lost(&corev1.Pod{Status: tc.status}); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
}

// Explain and Group say the same of what strip keeps, and a pod is small then.
func TestStrippedPodSaysTheSame(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1",
		Annotations: map[string]string{"x": strings.Repeat("x", 1<<16), corev1.PodDeletionCost: "-7"},
		Labels:      map[string]string{"y": strings.Repeat("y", 1<<16), "group": "gpu"},
	}}
	pod.Spec.NodeName = "n1"
	pod.Status = oom
	pod.Status.ContainerStatuses = append([]corev1.ContainerStatus{}, oom.ContainerStatuses...)
	pod.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{
		Reason: "Error", ExitCode: 1, Message: strings.Repeat("y", 1<<16)}
	stripped, err := strip(pod)
	if err != nil {
		t.Fatal(err)
	}
	kept := stripped.(*corev1.Pod)
	if Explain(kept) != Explain(pod) {
		t.Errorf("%q, want %q", Explain(kept), Explain(pod))
	}
	if status(kept) != status(pod) || group(kept) != group(pod) {
		t.Errorf("%+v of %s, want %+v of %s", status(kept), group(kept), status(pod), group(pod))
	}
	if size := kept.Size(); size > 1<<10 {
		t.Errorf("%d bytes are kept", size)
	}
}

// Kubernetes' messages are anybody's: image names, exit messages.
func TestExplainIsOneLine(t *testing.T) {
	got := Explain(&corev1.Pod{Status: corev1.PodStatus{Reason: "Evicted", Message: "a\r\nb\x1b[2J\x00" + strings.Repeat("é", 400)}})
	if !strings.HasPrefix(got, "Evicted: a b [2J é") || strings.ContainsAny(got, "\n\r\x1b\x00") || len(got) > maxReason+3 {
		t.Errorf("%q", got)
	}
}
