package scaler

import "time"

// peaks knows the most that was wanted in a window of time: of the samples in it those
// that no later one exceeds, so that each is looked at once.
type peaks struct{ samples []sample }

type sample struct {
	at    time.Time // last seen
	value int
}

// add notes what is wanted now, and forgets what was before the window.
func (p *peaks) add(now time.Time, value int, window time.Duration) {
	for len(p.samples) > 0 && p.samples[len(p.samples)-1].value <= value {
		p.samples = p.samples[:len(p.samples)-1]
	}
	p.samples = append(p.samples, sample{now, value})
	for now.Sub(p.samples[0].at) > window {
		p.samples = p.samples[1:]
	}
}

// most is the largest of the window, 0 if there is none.
func (p *peaks) most() int {
	if len(p.samples) == 0 {
		return 0
	}
	return p.samples[0].value
}

// growths is what was added lately.
type growths struct{ samples []sample }

func (g *growths) add(now time.Time, pods int) { g.samples = append(g.samples, sample{now, pods}) }

// within is the sum of what was added in the window that ends now.
func (g *growths) within(now time.Time, window time.Duration) (sum int) {
	for len(g.samples) > 0 && now.Sub(g.samples[0].at) >= window {
		g.samples = g.samples[1:]
	}
	for _, s := range g.samples {
		sum += s.value
	}
	return sum
}
