package elastic_test

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Sizes of the picture, in pixels, and its colours: those of Okabe and Ito, which
// people tell apart who do not see all colours.
const (
	width, left, right = 900, 64, 220
	blue, orange       = "#0072b2", "#e69f00"
	green, red, grey   = "#009e73", "#d55e00", "#888888"
)

type point struct{ x, y float64 }

// line is one of a chart.
type line struct {
	name, colour string
	dashed       bool
	points       []point
}

// chart is one part of the picture.
type chart struct {
	title          string
	top, height    float64
	least, most    point // what the axes show
	xticks, yticks []tick
	lines          []line
}

type tick struct {
	at   float64
	text string
}

// draw makes the picture.
func (w *world) draw(all []costs) string {
	charts := []chart{w.poolChart(), w.shareChart(), costChart(all)}
	var b strings.Builder
	height := 30.0
	for i := range charts {
		charts[i].top = height + 24
		height += charts[i].height + 64
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" font-family="sans-serif" font-size="12" fill="#222">`, width, height)
	fmt.Fprintf(&b, "\n<title>A simulated pool of up to %d workers</title>\n", w.most)
	fmt.Fprintf(&b, `<rect width="%d" height="%.0f" fill="#fff"/>`+"\n", width, height)
	for _, c := range charts {
		c.draw(&b)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (c chart) draw(b *strings.Builder) {
	x := func(v float64) float64 { return left + (width-left-right)*(v-c.least.x)/(c.most.x-c.least.x) }
	y := func(v float64) float64 { return c.top + c.height*(1-(v-c.least.y)/(c.most.y-c.least.y)) }
	fmt.Fprintf(b, `<text x="%d" y="%.0f" font-size="14" font-weight="bold">%s</text>`+"\n", left, c.top-10, c.title)
	for _, t := range c.yticks {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, y(t.at), width-right, left-6, y(t.at)+4, t.text)
	}
	for _, t := range c.xticks {
		fmt.Fprintf(b, `<path d="M%.1f %.1fv4" stroke="#222"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x(t.at), c.top+c.height, x(t.at), c.top+c.height+18, t.text)
	}
	fmt.Fprintf(b, `<path d="M%d %.1fV%.1fH%d" stroke="#222" fill="none"/>`+"\n", left, c.top, c.top+c.height, width-right)
	for i, l := range c.lines {
		dash := ""
		if l.dashed {
			dash = ` stroke-dasharray="5 4"`
		}
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.6"%s points="`, l.colour, dash)
		for _, p := range thinned(l.points) {
			fmt.Fprintf(b, "%.1f,%.1f ", x(p.x), y(min(max(p.y, c.least.y), c.most.y)))
		}
		at := c.top + 8 + float64(i)*18
		fmt.Fprintf(b, `"/><path d="M%d %.0fh20" stroke="%s" stroke-width="2"%s/><text x="%d" y="%.0f">%s</text>`+"\n", width-right+14, at, l.colour, dash, width-right+40, at+4, l.name)
	}
}

// thinned leaves out the points that lie between two of the same height.
func thinned(points []point) (some []point) {
	for i, p := range points {
		if i == 0 || i == len(points)-1 || points[i-1].y != p.y || points[i+1].y != p.y {
			some = append(some, p)
		}
	}
	return some
}

// every is how far apart the points of a line are.
const every = 2 * time.Second

// poolChart shows pods and workers over time.
func (w *world) poolChart() chart {
	top := float64(w.most) * 1.5
	c := chart{title: "Workers and pods", height: 250, most: point{endAt.Minutes(), top}, xticks: minutes(), yticks: ticks(top)}
	c.lines = []line{
		w.line("wanted by sessions", grey, func(s sample) float64 { return float64(s.wanted) }),
		w.line("pods asked for", blue, func(s sample) float64 { return float64(s.asked) }),
		w.line("pods ready", green, func(s sample) float64 { return float64(s.ready) }),
		w.line("workers computing", orange, func(s sample) float64 { return float64(s.allBusy()) }),
	}
	c.lines[0].dashed = true
	return c
}

func (w *world) line(name, colour string, value func(sample) float64) line {
	l := line{name: name, colour: colour}
	for i := 0; i < len(w.samples); i += int(every / look) {
		l.points = append(l.points, point{w.samples[i].at.Minutes(), value(w.samples[i])})
	}
	return l
}

// shareChart shows what sessions have while there is not enough for all.
func (w *world) shareChart() chart {
	top := float64(w.most) / 24
	c := chart{title: "Workers computing for one session", height: 190, most: point{endAt.Minutes(), top}, xticks: minutes(), yticks: ticks(top)}
	for _, k := range []struct{ kind, name, colour string }{
		{long, "20 with futures of 30 s", blue}, {short, "20 with futures of 4 s", orange},
		{late, "one that comes late", red}, {lease, "a lease of half as many", green}, {stays, "three that stay", grey},
	} {
		c.lines = append(c.lines, w.line(k.name, k.colour, func(s sample) float64 { return w.average(s, k.kind) }))
	}
	return c
}

// average is what the sessions of a kind have that have anything.
func (w *world) average(s sample, kind string) float64 {
	sum, n := 0, 0
	for i, busy := range s.busy {
		if w.sessions[i].kind == kind && w.sessions[i].from <= s.at && (s.at <= w.sessions[i].until || busy > 0) {
			sum += busy
			n++
		}
	}
	return float64(sum) / float64(max(n, 1))
}

// costChart shows what a look of the scaler's takes, both axes by powers of ten.
func costChart(all []costs) chart {
	first, last := all[0], all[len(all)-1]
	log := func(d time.Duration) float64 { return math.Log10(float64(d) / float64(time.Millisecond)) }
	c := chart{
		title: "CPU time of one look of the scaler's, by the number of agents", height: 190,
		least: point{math.Log10(float64(first.agents)), -2}, most: point{math.Log10(float64(last.agents)), 2},
		yticks: []tick{{-2, "10 µs"}, {-1, "0.1 ms"}, {0, "1 ms"}, {1, "10 ms"}, {2, "100 ms"}},
	}
	guide := line{name: "in step with the pool", colour: grey, dashed: true}
	lines := []line{{name: "all compute, others wait", colour: orange}, {name: "all are idle", colour: green}, {name: "a hundred go", colour: blue}}
	for _, k := range all {
		x := math.Log10(float64(k.agents))
		c.xticks = append(c.xticks, tick{x, fmt.Sprint(k.agents)})
		for i, d := range []time.Duration{k.computing, k.resting, k.shrinking} {
			lines[i].points = append(lines[i].points, point{x, log(d)})
		}
		guide.points = append(guide.points, point{x, log(first.computing * time.Duration(k.agents) / time.Duration(first.agents))})
	}
	c.lines = append(lines, guide)
	return c
}

func minutes() (all []tick) {
	for m := 0.0; m <= endAt.Minutes(); m += 6 {
		all = append(all, tick{m, fmt.Sprintf("%.0f min", m)})
	}
	return all
}

// ticks divides an axis into some five parts.
func ticks(top float64) (all []tick) {
	unit := math.Pow(10, math.Floor(math.Log10(top)))
	for top/unit < 4 {
		unit /= 2
	}
	for v := 0.0; v <= top; v += unit {
		all = append(all, tick{v, fmt.Sprint(v)})
	}
	return all
}
