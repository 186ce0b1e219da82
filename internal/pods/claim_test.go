package pods

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
	corev1 "k8s.io/api/core/v1"
)

// at is a pod that is ready, with addresses.
func at(addresses ...string) *corev1.PodStatus {
	status := ready.DeepCopy()
	for _, a := range addresses {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: a})
	}
	return status
}

func ofGroup(group string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Labels = map[string]string{groupLabel: group} }
}

func claim(name, group, from string) Claim {
	c := Claim{Name: name, Group: group}
	if from != "" {
		c.From = netip.MustParseAddr(from)
	}
	return c
}

func TestClaimsAreVerified(t *testing.T) {
	s := newAPIServer(t)
	s.setWith("a", at("10.0.0.1", "fd00::1"), ofGroup("gpu"))
	s.set("b", at())
	s.set("ended", &corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"})
	s.set("deleted", at("10.0.0.9"))
	w := watch(t, s)
	await(t, w)
	s.set("deleted", nil)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	testkit.Eventually(t, "the deletion", func() bool { return w.Verify(over, claim("deleted", "default", "")) != nil })
	for _, tc := range []struct {
		claim Claim
		want  string // "": it is true
	}{
		{claim("a", "gpu", "10.0.0.1"), ""},
		{claim("a", "gpu", "fd00::1"), ""},
		{claim("a", "gpu", ""), ""},
		{claim("b", "default", ""), ""},
		{claim("a", "gpu", "10.0.0.2"), "pod a has the addresses [10.0.0.1 fd00::1], its agent connects from 10.0.0.2: where the network changes addresses"},
		{claim("a", "default", "10.0.0.1"), `pod a is of the group "gpu"`},
		{claim("b", "default", "10.0.0.1"), "pod b has no address yet"},
		{claim("c", "default", "10.0.0.1"), `no pod of component=worker in namespace ns is called "c"`},
		{claim("deleted", "default", "10.0.0.9"), `is called "deleted"`},
		{claim("ended", "default", ""), "pod ended has ended: Failed"},
	} {
		err := w.Verify(over, tc.claim)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", tc.claim, err, tc.want)
		}
	}
}

// The watch may be behind the pod: an agent waits for the news that there is one, and that
// it has an address.
func TestVerifyWaits(t *testing.T) {
	s := newAPIServer(t)
	w := watch(t, s)
	await(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	verified := make(chan error, 1)
	go func() { verified <- w.Verify(ctx, claim("a", "gpu", "10.0.0.1")) }()
	s.setWith("a", at(), ofGroup("gpu"))
	testkit.Eventually(t, "the pod", func() bool { return len(w.Group("gpu")) == 1 })
	select {
	case err := <-verified:
		t.Fatalf("it has not waited for the pod's address: %v", err)
	default:
	}
	s.setWith("a", at("10.0.0.1"), ofGroup("gpu"))
	if err := <-verified; err != nil {
		t.Error(err)
	}
}

// The watch breaks, and what it has not seen may be there: a claim to that is not known, where
// one that contradicts what it has seen is wrong. When the watch is back, all is known again.
func TestVerifyStale(t *testing.T) {
	s := newAPIServer(t)
	s.setWith("a", at("10.0.0.1"), ofGroup("gpu"))
	s.set("starting", at())
	s.set("ended", &corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"})
	s.set("deleted", at("10.0.0.9"))
	w := watch(t, s)
	await(t, w)
	s.set("deleted", nil)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	testkit.Eventually(t, "the deletion", func() bool { return w.Verify(over, claim("deleted", "default", "")) != nil })
	s.Answer(http.StatusUnauthorized) // the token has expired
	s.CloseClientConnections()
	testkit.Eventually(t, "the watch to be stale", func() bool { return !isClosed(w.Current()) })
	s.set("new", at("10.0.0.2"))
	for _, tc := range []struct {
		claim    Claim
		is, open bool // true; neither true nor wrong
	}{
		{claim("a", "gpu", "10.0.0.1"), true, false},
		{claim("a", "gpu", "10.0.0.2"), false, false},
		{claim("a", "default", "10.0.0.1"), false, false},
		{claim("starting", "default", "10.0.0.3"), false, true},
		{claim("starting", "gpu", "10.0.0.3"), false, false},
		{claim("ended", "default", ""), false, false},
		{claim("new", "default", "10.0.0.2"), false, true},
		{claim("deleted", "default", "10.0.0.9"), false, true},
		{claim("stranger", "default", "10.0.0.4"), false, true},
	} {
		err := w.Verify(over, tc.claim)
		if (err == nil) != tc.is || errors.Is(err, ErrNotKnown) != tc.open {
			t.Errorf("%+v: %v", tc.claim, err)
		}
	}
	s.Answer(0)
	await(t, w)
	verify(t, w, claim("new", "default", "10.0.0.2"))
}
