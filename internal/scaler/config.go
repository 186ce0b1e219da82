package scaler

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// Group is how one group of workers is scaled.
type Group struct {
	Name       string // that its agents announce, and its pods' label "group"
	Deployment string // of its pods
	Min, Max   int    // pods
	Slots      int    // workers in each pod
	// Idle is how long fewer pods must have been wanted than there are before some go.
	Idle time.Duration
	// Rate is how many pods are added in a minute at most, 0 for no bound.
	Rate int
	// Start is how long demand has reason to wait while no pod becomes ready.
	Start time.Duration
}

// Form is what ParseGroup takes.
const Form = "deployment=NAME,max=PODS[,group=default][,min=0][,slots=1][,idle=5m][,rate=0][,start=10m]"

// ParseGroup reads a group from its Form.
func ParseGroup(text string) (Group, error) {
	g := Group{Name: pool.DefaultGroup, Slots: 1, Idle: 5 * time.Minute, Start: 10 * time.Minute}
	given := make(map[string]bool)
	for _, field := range strings.Split(text, ",") {
		key, value, found := strings.Cut(field, "=")
		if !found {
			return g, fmt.Errorf("%q has no value, write %s", field, Form)
		}
		if given[key] {
			return g, fmt.Errorf("%s is there twice", key)
		}
		given[key] = true
		if err := g.set(key, value); err != nil {
			return g, err
		}
	}
	for _, key := range []string{"deployment", "max"} {
		if !given[key] {
			return g, fmt.Errorf("%s is missing, write %s", key, Form)
		}
	}
	if g.Max < max(g.Min, 1) {
		return g, fmt.Errorf("max=%d is less than min=%d, or than 1", g.Max, g.Min)
	}
	return g, nil
}

// maxPods bounds min and max, as a typing error would have it: Kubernetes clusters have
// up to 150,000 pods.
const maxPods = 150_000

func (g *Group) set(key, value string) error {
	numbers := map[string]struct {
		into        *int
		least, most int
	}{
		"min": {&g.Min, 0, maxPods}, "max": {&g.Max, 1, maxPods}, "slots": {&g.Slots, 1, 1024}, "rate": {&g.Rate, 0, maxPods},
	}
	durations := map[string]*time.Duration{"idle": &g.Idle, "start": &g.Start}
	if n, known := numbers[key]; known {
		number, err := strconv.Atoi(value)
		if err != nil || number < n.least || number > n.most {
			return fmt.Errorf("%s=%q, want a number from %d to %d", key, value, n.least, n.most)
		}
		*n.into = number
		return nil
	}
	if into, known := durations[key]; known {
		d, err := time.ParseDuration(value)
		if err != nil || d < time.Second {
			return fmt.Errorf("%s=%q, want a duration of 1s or more, such as 5m", key, value)
		}
		*into = d
		return nil
	}
	switch key {
	case "group":
		if len(validation.IsValidLabelValue(value)) > 0 || value == "" {
			return fmt.Errorf("group=%q is no value of a label, which groups are", value)
		}
		g.Name = value
	case "deployment":
		if len(validation.IsDNS1123Subdomain(value)) > 0 {
			return fmt.Errorf("deployment=%q is no name of a Deployment", value)
		}
		g.Deployment = value
	default:
		return fmt.Errorf("%q is not known, write %s", key, Form)
	}
	return nil
}

// pods is how many pods this many workers need, without a bound.
func (g Group) pods(workers int) int { return (workers + g.Slots - 1) / g.Slots }

// bounded is the same between min and max.
func (g Group) bounded(workers int) int { return min(max(g.pods(workers), g.Min), g.Max) }
