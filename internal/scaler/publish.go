package scaler

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// publish shows what a step has seen and done.
func (g *group) publish(v *view) {
	missing, ready := missing(v.pods), 0
	for _, pod := range v.pods {
		if pod.Ready && !pod.Leaves {
			ready++
		}
	}
	g.memory.short.note(v.now, ready, g.last.goal)
	s := Snapshot{
		Group: g.config.Name, Deployment: g.config.Deployment, Min: g.config.Min, Max: g.config.Max, Slots: g.config.Slots,
		Wanted: v.wanted, Need: g.last.need, Pods: max(g.memory.replicas, 0), Ready: ready, Leaving: len(g.memory.leaving),
	}
	for _, err := range []error{g.cannotRead, g.cannotDo} {
		if err != nil {
			s.Conditions = append(s.Conditions, failing(g.config, err))
			break
		}
	}
	s.Conditions = append(s.Conditions, g.memory.conditions(*v, g.last)...)
	for i := range s.Conditions {
		s.Conditions[i].Since = v.now
		for _, before := range g.seen.Conditions {
			if s.Conditions[i].same(before) {
				s.Conditions[i].Since = before.Since
			}
		}
	}
	g.metrics.show(s)
	g.tell(g.seen.Conditions, s.Conditions)
	starting := ready < g.last.goal && hopeful(s.Conditions)
	g.mu.Lock()
	g.seen, g.starting, g.missing = s, starting, missing
	g.mu.Unlock()
	if text := explain(s, missing); !starting {
		g.told = ""
	} else if text != g.told && v.now.Sub(g.toldAt) >= telling {
		g.told, g.toldAt = text, v.now
		g.log.Info("waiting for worker pods", zap.String("state", text))
	}
}

// hopeful reports whether missing pods may come although this is so.
func hopeful(conditions []Condition) bool {
	for _, c := range conditions {
		if c.Type == ScalingFails && c.Reason != unreachable || c.Type == PodsFail && c.Reason != notDeleted {
			return false
		}
	}
	return true
}

func (c Condition) same(other Condition) bool {
	return c.Type == other.Type && c.Reason == other.Reason
}

// tell logs what conditions have come and gone, once for each change.
func (g *group) tell(before, now []Condition) {
	for _, c := range now {
		if !contains(before, c) {
			g.log.Log(c.Type.level(), "a condition of the group's scaling", zap.String("type", string(c.Type)),
				zap.String("reason", c.Reason), zap.String("message", c.Message))
		}
	}
	for _, c := range before {
		if !contains(now, c) {
			g.log.Info("a condition of the group's scaling is over", zap.String("type", string(c.Type)), zap.String("reason", c.Reason))
		}
	}
}

func contains(all []Condition, c Condition) bool {
	for _, other := range all {
		if c.same(other) {
			return true
		}
	}
	return false
}

func (t ConditionType) level() zapcore.Level {
	switch t {
	case ScalingFails, PodsFail, PodsElsewhere:
		return zapcore.WarnLevel
	}
	return zapcore.InfoLevel
}
