package main

import (
	"errors"
	"fmt"

	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/rendezvous"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
)

// scale reads --scale.
func (s *serve) scale() ([]scaler.Group, error) {
	if len(s.Scale) > 0 && s.WorkerPods == "" {
		return nil, errors.New("it needs --worker-pods, for which pods there are")
	}
	var groups []scaler.Group
	for _, text := range s.Scale {
		g, err := scaler.ParseGroup(text)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		for _, other := range groups {
			if other.Name == g.Name || other.Deployment == g.Deployment {
				return nil, fmt.Errorf("%q: its group or its Deployment is that of %q, give each once", text, other.Name)
			}
		}
		if g.Max*g.Slots > s.MaxWorkers {
			return nil, fmt.Errorf("%q: %d workers are more than --max-workers %d", text, g.Max*g.Slots, s.MaxWorkers)
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// scaling prepares the scaling of the workers' Deployments.
func (s *serve) scaling(config *rendezvous.Config) error {
	groups, err := s.scale()
	if err != nil || len(groups) == 0 {
		return err
	}
	api, namespace, err := pods.InCluster()
	if err != nil {
		return err
	}
	config.Scale = groups
	config.Cluster, err = scaler.NewKubernetes(api, namespace)
	return err
}
