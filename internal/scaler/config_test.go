package scaler

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/pods"
)

func TestParseGroup(t *testing.T) {
	for text, want := range map[string]Group{
		"deployment=w,max=6": {Name: "default", Deployment: "w", Max: 6, Slots: 1, Idle: 5 * time.Minute, Start: 10 * time.Minute},
		"group=gpu,deployment=future-worker-gpu,min=1,max=2,slots=4,idle=90s,rate=10,start=1h": {
			Name: "gpu", Deployment: "future-worker-gpu", Min: 1, Max: 2, Slots: 4, Idle: 90 * time.Second, Rate: 10, Start: time.Hour},
	} {
		if got, err := ParseGroup(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                               `"" has no value, write deployment=NAME,max=PODS`,
		"future-worker":                  `"future-worker" has no value`,
		"max=6":                          "deployment is missing",
		"deployment=w":                   "max is missing",
		"deployment=w,max=6,max=7":       "max is there twice",
		"deployment=w,max=0":             `max="0", want a number from 1 to 150000`,
		"deployment=w,max=many":          `max="many", want a number`,
		"deployment=w,max=2,min=3":       "max=2 is less than min=3",
		"deployment=w,max=2,min=-1":      `min="-1", want a number from 0`,
		"deployment=w,max=2,slots=0":     `slots="0", want a number from 1 to 1024`,
		"deployment=w,max=2,idle=5":      `idle="5", want a duration of 1s or more, such as 5m`,
		"deployment=w,max=2,idle=5ms":    `idle="5ms", want a duration of 1s or more`,
		"deployment=w,max=2,start=-5m":   `start="-5m", want a duration`,
		"deployment=w,max=2,rate=-1":     `rate="-1", want a number`,
		"deployment=No_Name,max=2":       `deployment="No_Name" is no name of a Deployment`,
		"deployment=w,max=2,group=":      `group="" is no value of a label`,
		"deployment=w,max=2,group=a b":   `group="a b" is no value of a label`,
		"deployment=w,max=2,replicas=3":  `"replicas" is not known, write deployment=NAME`,
		"deployment=w,max=2,slots=1,":    `"" has no value`,
		"deployment=w,max=2,min=2,min=2": "min is there twice",
	} {
		if _, err := ParseGroup(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestPeaksOfAWindow(t *testing.T) {
	var p peaks
	if p.most() != 0 {
		t.Errorf("%d of nothing", p.most())
	}
	for second, want := range []int{3, 3, 5, 5, 5, 5, 4, 2, 2, 9} {
		p.add(start.Add(time.Duration(second)*time.Second), []int{3, 1, 5, 4, 2, 2, 1, 0, 1, 9}[second], 3*time.Second)
		if p.most() != want {
			t.Errorf("second %d: %d, want %d", second, p.most(), want)
		}
	}
	if len(p.samples) != 1 {
		t.Errorf("%d samples are kept", len(p.samples))
	}
}

func TestGrowthsOfAWindow(t *testing.T) {
	var g growths
	g.add(start, 3)
	g.add(start.Add(time.Second), 4)
	for second, want := range []int{7, 7, 7, 4, 0} {
		if got := g.within(start.Add(time.Duration(second)*time.Second), 3*time.Second); got != want {
			t.Errorf("second %d: %d, want %d", second, got, want)
		}
	}
}

func TestMissingPodsAreExplained(t *testing.T) {
	missing := []pods.Status{{Name: "a", Reason: "Pending"}, {Name: "b", Reason: "Unschedulable: no room"}, {Name: "c", Reason: "x"}, {Name: "d", Reason: "y"}, {Name: "e", Reason: "z"}}
	for want, tc := range map[string]struct {
		seen    Snapshot
		missing []pods.Status
	}{
		"0 of 0 pods run": {},
		"2 of 6 pods run; a: Pending; b: Unschedulable: no room; c: x; and 2 more": {Snapshot{Need: 6, Pods: 4, Ready: 2}, missing},
		"3 of 3 pods run; Maximum: 5 pods are wanted, the maximum is 3; a: Pending": {Snapshot{Need: 3, Pods: 3, Ready: 3, Conditions: []Condition{
			{Type: Limited, Reason: "Maximum", Message: "5 pods are wanted, the maximum is 3"}, {Type: Paused, Reason: "Paused", Message: "no matter"}}}, missing[:1]},
	} {
		if got := explain(tc.seen, tc.missing); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	w := newWorld(t, standard())
	if starting, text := w.scaler.Starting("gpu"); starting || text != "" || w.scaler.Max("gpu") != 0 {
		t.Errorf("of a group that is not scaled: %t %q", starting, text)
	}
}

// Every series is there from the start, and says what there is.
func TestEverySeriesIsThereFromTheStart(t *testing.T) {
	w := newWorld(t, standard())
	if problems, err := testutil.GatherAndLint(w.registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	series := func(name string) int {
		n, err := testutil.GatherAndCount(w.registry, name)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	count := func() string {
		var b strings.Builder
		for _, name := range []string{"pods", "condition", "changes_total", "errors_total"} {
			b.WriteString(name + " " + strings.Repeat("|", series("rendezvous_scale_"+name)) + "\n")
		}
		return b.String()
	}
	before := count()
	w.quota, w.wanted = 2, 9
	w.run(10 * time.Second)
	if after := count(); after != before {
		t.Errorf("series:\n%sand later:\n%s", before, after)
	}
	if err := testutil.GatherAndCompare(w.registry, strings.NewReader(`
# HELP rendezvous_scale_pods Worker pods of a scaled group: wanted by sessions, within the bounds; spec, that its Deployment is told to have; ready; and the bounds min and max.
# TYPE rendezvous_scale_pods gauge
rendezvous_scale_pods{group="default",kind="max"} 6
rendezvous_scale_pods{group="default",kind="min"} 0
rendezvous_scale_pods{group="default",kind="ready"} 2
rendezvous_scale_pods{group="default",kind="spec"} 6
rendezvous_scale_pods{group="default",kind="wanted"} 6
# HELP rendezvous_scale_condition 1 while something is in the way of a group's scaling, by what it is; rendezvous status has the reason.
# TYPE rendezvous_scale_condition gauge
rendezvous_scale_condition{group="default",type="Limited"} 1
rendezvous_scale_condition{group="default",type="Paused"} 0
rendezvous_scale_condition{group="default",type="PodsElsewhere"} 0
rendezvous_scale_condition{group="default",type="PodsFail"} 1
rendezvous_scale_condition{group="default",type="ScaledByOthers"} 0
rendezvous_scale_condition{group="default",type="ScalingFails"} 0
# HELP rendezvous_scale_changes_total Times that a group's Deployment was told to have more pods, or fewer.
# TYPE rendezvous_scale_changes_total counter
rendezvous_scale_changes_total{direction="down",group="default"} 0
rendezvous_scale_changes_total{direction="up",group="default"} 1
`), "rendezvous_scale_pods", "rendezvous_scale_condition", "rendezvous_scale_changes_total"); err != nil {
		t.Error(err)
	}
}
