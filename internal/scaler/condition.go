package scaler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Condition is something that is in the way of a group's scaling, or that whoever runs
// the group should know. It is there as long as it is so.
type Condition struct {
	Type    ConditionType `json:"type"`
	Reason  string        `json:"reason"` // one word, for programs
	Message string        `json:"message"`
	Since   time.Time     `json:"since"`
}

// ConditionType is the sort of a Condition.
type ConditionType string

// The sorts of conditions, worst first.
const (
	// ScalingFails: the Deployment cannot be scaled. The reason is one of failures.
	ScalingFails ConditionType = "ScalingFails"
	// PodsFail: pods cannot be made (FailedCreate, or another word of Kubernetes'), none of
	// those that are missing can start (CannotStart), they take too long (StartTimeout), or
	// they are not deleted (NotDeleted).
	PodsFail ConditionType = "PodsFail"
	// ScaledByOthers: somebody else has Lowered or Raised the number of replicas.
	ScaledByOthers ConditionType = "ScaledByOthers"
	// PodsElsewhere: pods are ready, and Unconnected here.
	PodsElsewhere ConditionType = "PodsElsewhere"
	// Limited: more is wanted than the Maximum, or than the Rate allows at a time.
	Limited ConditionType = "Limited"
	// Paused: the Deployment is. It is scaled all the same, but for a template that has
	// changed: a rollout that is under way is waited for before pods go.
	Paused ConditionType = "Paused"
)

// conditionTypes lists every ConditionType.
var conditionTypes = []ConditionType{ScalingFails, PodsFail, ScaledByOthers, PodsElsewhere, Limited, Paused}

// The reasons of ScalingFails, which are those of the metric of errors, too.
const (
	unreachable = "Unreachable"
	forbidden   = "Forbidden"
	notFound    = "NotFound"
	conflict    = "Conflict" // no reason of a condition: it is tried again at once
	failed      = "Failed"

	// failedCreate is Kubernetes' word for pods that cannot be made.
	failedCreate = "FailedCreate"
	// notDeleted is the reason of PodsFail that keeps no demand waiting in vain.
	notDeleted = "NotDeleted"
)

var failures = []string{unreachable, forbidden, notFound, conflict, failed}

// failure is the reason that an error of a Cluster has.
func failure(err error) string {
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return forbidden
	case apierrors.IsNotFound(err):
		return notFound
	case apierrors.IsConflict(err):
		return conflict
	case apierrors.IsInternalError(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsTooManyRequests(err):
		return unreachable
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) && !errors.Is(err, context.DeadlineExceeded) {
		return failed
	}
	return unreachable
}

// failing is the condition that an error of a Cluster makes.
func failing(g Group, err error) Condition {
	c := Condition{Type: ScalingFails, Reason: failure(err)}
	switch c.Reason {
	case unreachable:
		c.Message = "the API server does not answer as it should: "
	case forbidden:
		c.Message = fmt.Sprintf("allow get of Deployment %s, update of its scale, and patch of pods: ", g.Deployment)
	case notFound:
		c.Message = fmt.Sprintf("there is no Deployment %s, make it anew ('helm upgrade' does): ", g.Deployment)
	}
	c.Message = pods.OneLine(c.Message + err.Error())
	return c
}

// conditions are those that a view and what was decided have, worst first.
func (m *memory) conditions(v view, d decision) (all []Condition) {
	add := func(kind ConditionType, reason, format string, args ...any) {
		all = append(all, Condition{Type: kind, Reason: reason, Message: pods.OneLine(fmt.Sprintf(format, args...))})
	}
	if reason, message := m.podsFail(v); reason != "" {
		add(PodsFail, reason, "%s", message)
	}
	if o := m.others; m.theirs(v.now) {
		reason, then := "Raised", ""
		if o.to < o.from {
			reason = "Lowered"
		}
		if o.low {
			then = ", less than is wanted; it is left so until " + o.at.Add(o.yield).UTC().Format(time.TimeOnly) + " UTC"
		}
		add(ScaledByOthers, reason, "somebody else has set %d replicas, after %d%s", o.to, o.from, then)
	}
	if d.elsewhere > 0 {
		add(PodsElsewhere, "Unconnected", "%d pods are ready and serve no session here: does another rendezvous have them, or the network in between?", d.elsewhere)
	}
	if n := m.config.pods(v.wanted); n > m.config.Max {
		add(Limited, "Maximum", "%d pods are wanted, the maximum is %d", n, m.config.Max)
	}
	if d.rated {
		add(Limited, "Rate", "%d pods are needed, %d are added in a minute at most", d.goal, m.config.Rate)
	}
	if v.deployment.Paused {
		add(Paused, "Paused", "the Deployment is paused: pods are added and deleted all the same, but none go once its template has been changed, which is not carried out")
	}
	return all
}

// podsFail says why pods that should be there are not, or the other way round, "" for
// nothing.
func (m *memory) podsFail(v view) (reason, message string) {
	missing := missing(v.pods)
	switch {
	case m.failure.reason != "":
		return m.failure.reason, m.failure.message
	case v.now.Before(m.rest):
		return notDeleted, fmt.Sprintf("pods were to be deleted and were not, within %s: does the controller manager run?", leaveLimit)
	case m.short.lasts(v.now) > m.config.Start:
		return "StartTimeout", fmt.Sprintf("%d of %d pods are ready, and for %s none was added to them%s", m.short.ready, m.short.goal, m.config.Start, named(missing, 1))
	case hopeless(missing):
		return "CannotStart", "no pod that is missing can start" + named(missing, 1)
	}
	return "", ""
}

// failedPods is why pods could not be made or deleted, when that was last tried.
type failedPods struct{ reason, message string }

// after is what holds once the Deployment was read again. The controller of a ReplicaSet takes
// its condition back each time that it looks without trying (seen in Kubernetes 1.34): as long
// as pods are missing nobody should take that for a recovery.
func (f failedPods) after(read Deployment) failedPods {
	made := read.Pods >= read.Replicas && (read.Updated == read.Pods || read.Paused)
	if read.Failure == "" && !made && f.reason == failedCreate {
		return f
	}
	return failedPods{read.Failure, read.FailureMessage}
}

// missing are the pods that are not ready and are to stay, in the order of their names.
func missing(all []pods.Status) (some []pods.Status) {
	for _, pod := range all {
		if !pod.Ready && !pod.Leaves {
			some = append(some, pod)
		}
	}
	slices.SortFunc(some, func(a, b pods.Status) int { return cmp.Compare(a.Name, b.Name) })
	return some
}

// fatal are kubelet's words for a container that does not come up by waiting.
var fatal = map[string]bool{
	"ImagePullBackOff": true, "ErrImagePull": true, "ErrImageNeverPull": true, "InvalidImageName": true,
	"CreateContainerConfigError": true, "CreateContainerError": true, "CrashLoopBackOff": true,
}

// hopeless reports whether nothing comes of waiting for any of these.
func hopeless(missing []pods.Status) bool {
	for _, pod := range missing {
		word, _, _ := strings.Cut(pod.Reason, ":")
		if !fatal[word] {
			return false
		}
	}
	return len(missing) > 0
}

// shortage is how long there have been fewer pods than there should be.
type shortage struct {
	ready, goal int
	since       time.Time // when it began, or was last relieved; zero if there is none
}

// note takes over how many pods are ready, and how many should be.
func (s *shortage) note(now time.Time, ready, goal int) {
	switch {
	case ready >= goal:
		s.since = time.Time{}
	case s.since.IsZero() || ready > s.ready || goal > s.goal:
		s.since = now
	}
	s.ready, s.goal = ready, goal
}

func (s *shortage) lasts(now time.Time) time.Duration {
	if s.since.IsZero() {
		return 0
	}
	return now.Sub(s.since)
}
