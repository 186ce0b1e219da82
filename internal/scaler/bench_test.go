package scaler

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
)

// steady is a cluster, a pool and pods in which nothing goes on.
type steady struct {
	deployment Deployment
	names      []string
	pods       []pods.Status
}

func (s *steady) Deployment(context.Context, string) (Deployment, error) { return s.deployment, nil }
func (s *steady) Scale(context.Context, string, Deployment, int) error   { return nil }
func (s *steady) Mark(context.Context, string) error                     { return nil }
func (s *steady) Unmark(context.Context, string) error                   { return nil }
func (s *steady) NewNodes(context.Context) (map[string]string, error)    { return nil, nil }
func (s *steady) Group(string) []pods.Status                             { return s.pods }
func (s *steady) Agents(string) []string                                 { return s.names }
func (s *steady) Idle(string) []string                                   { return s.names[:len(s.names)/2] }
func (s *steady) Cordon(string) bool                                     { return false }
func (s *steady) Uncordon(string)                                        {}

// What a second costs when half of the pods are in use: it grows as the pool does.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := &steady{deployment: Deployment{UID: "1", Replicas: n, Pods: n, Updated: n, Ready: n, Observed: true}}
			for i := range n {
				name := fmt.Sprintf("future-worker-7d4f9c6b5-%05d", i)
				s.names = append(s.names, name)
				s.pods = append(s.pods, pods.Status{Name: name, Node: fmt.Sprint("n", i%100), Phase: corev1.PodRunning, Ready: true})
			}
			config := standard()
			config.Max = n
			scaler := New(Config{
				Log: zap.NewNop(), Metrics: NewMetrics(prometheus.NewRegistry()), Groups: []Group{config}, Cluster: s, Pods: s, Pool: s,
				Wanted: func() map[string]int { return map[string]int{"default": n} },
			})
			now := start
			for b.Loop() {
				now = now.Add(time.Second)
				scaler.Step(context.Background(), now)
			}
		})
	}
}
