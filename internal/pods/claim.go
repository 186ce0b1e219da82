package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Claim is what a worker agent says of itself, and where it connects from.
type Claim struct {
	Name  string // of its pod
	Group string
	From  netip.Addr // the zero Addr is that of any pod
}

// ErrNotKnown is Verify's error for a claim that may be true while the watch is not Current.
// Any other contradicts what is known.
var ErrNotKnown = errors.New("not known")

// unseen is ErrNotKnown in words of its own.
type unseen struct{ error }

func (unseen) Is(target error) bool { return target == ErrNotKnown }

// Verify says why there is no pod as claimed. It waits for one until ctx ends: what a pod
// does can be known before the pod is, since kubelet publishes its address, and the API
// server tells its watchers, while its containers start.
func (w *Watcher) Verify(ctx context.Context, claim Claim) error {
	for {
		w.mu.Lock()
		err, changed := w.refute(claim), w.changed
		w.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}

// refute is called with the lock held.
func (w *Watcher) refute(claim Claim) error {
	s, known := w.pods[claim.Name]
	switch {
	case !known || !s.gone.IsZero():
		return unseen{fmt.Errorf("no pod of %s in namespace %s is called %q: an agent's --name must be its pod's metadata.name; --agent-check=none of the rendezvous lets in agents of no pod",
			w.config.Selector, w.config.Namespace, claim.Name)}
	case s.Phase == corev1.PodFailed || s.Phase == corev1.PodSucceeded:
		return fmt.Errorf("pod %s has ended: %s", claim.Name, s.Phase)
	case s.group != claim.Group:
		return fmt.Errorf("pod %s is of the group %q by its label %q, its agent of %q: give the agent --group=%s, or the pod the label", claim.Name, s.group, groupLabel, claim.Group, s.group)
	case !claim.From.IsValid() || slices.Contains(s.from, claim.From):
		return nil
	case len(s.from) == 0:
		return unseen{fmt.Errorf("pod %s has no address yet, its agent connects from %s", claim.Name, claim.From)}
	default:
		return fmt.Errorf("pod %s has the addresses %s, its agent connects from %s: where the network changes addresses (NAT, a service mesh) give the rendezvous --agent-check=name (rendezvous.agentCheck of the chart)", claim.Name, s.from, claim.From)
	}
}

// addresses are the pod's. Pods in their node's network have the node's, and so are not
// told from each other by it.
func addresses(pod *corev1.Pod) []netip.Addr {
	var all []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}
