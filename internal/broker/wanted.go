package broker

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// Scaling starts and ends workers. *scaler.Scaler is one.
type Scaling interface {
	// Poke says that more may be wanted than a moment ago.
	Poke()
	// Max is how many workers a group may have, 0 if their number is not its to change.
	Max(group string) int
	// Starting reports whether demand for a group's workers has reason to wait; the text
	// says how far those are that are on their way, or why there are none.
	Starting(group string) (bool, string)
}

// Wanted is how many workers sessions want, by group: those that they use, of their
// groups, and those they wait for, of any group, "".
func (b *Broker) Wanted() map[string]int { return b.config.Pool.Wanted() }

// poke announces demand to whoever starts workers.
func (b *Broker) poke() {
	if b.config.Scaling != nil {
		b.config.Scaling.Poke()
	}
}

// scaling says what is in the way of more workers of the group, "" for nothing that is
// known, and whether there is reason to wait for them.
func (b *Broker) scaling(group string) (text string, starting bool) {
	if b.config.Scaling == nil {
		return "", false
	}
	starting, text = b.config.Scaling.Starting(cmp.Or(group, pool.DefaultGroup))
	return text, starting
}

// Most is how many workers of the group there may be, 0 if it is not scaled.
func (b *Broker) Most(group string) int {
	if b.config.Scaling == nil {
		return 0
	}
	return b.config.Scaling.Max(cmp.Or(group, pool.DefaultGroup))
}

// Bound is how many workers of the group there can ever be, 0 if that is not known: the
// most that are started, or those that are there. Some may have been started by other
// means, and any group's are more than the default one's.
func (b *Broker) Bound(group string) int {
	most := b.Most(group)
	if most == 0 {
		return 0
	}
	return max(most, b.config.Pool.Slots(group))
}

// wantedCollector reads Wanted at each scrape. Whoever scales workers by other means goes
// by this metric: it is there without a Scaling, too.
type wantedCollector struct {
	broker *Broker
	desc   *prometheus.Desc
}

func newWantedCollector(b *Broker) *wantedCollector {
	return &wantedCollector{b, prometheus.NewDesc("rendezvous_workers_wanted",
		"Workers that sessions have or wait for, by group. Demand for workers of any group counts for the default one.", []string{"group"}, nil)}
}

func (c *wantedCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *wantedCollector) Collect(ch chan<- prometheus.Metric) {
	wanted := c.broker.Wanted()
	wanted[pool.DefaultGroup] += wanted[""]
	delete(wanted, "")
	for _, group := range c.broker.config.Groups {
		wanted[group] += 0 // there before anybody wants it
	}
	for group, n := range wanted {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), group)
	}
}
