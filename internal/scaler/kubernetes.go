package scaler

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
)

// Cluster is what a Scaler needs of Kubernetes. Kubernetes is one.
type Cluster interface {
	// Deployment reads a Deployment.
	Deployment(ctx context.Context, name string) (Deployment, error)
	// Scale sets the replicas of a Deployment, if that is as it was read: it fails with a
	// conflict otherwise.
	Scale(ctx context.Context, name string, read Deployment, replicas int) error
	// Mark says that a pod is to be deleted before the others of its ReplicaSet that are
	// ready as well; Unmark takes that back. A pod that is gone is no error. Both are called
	// for several pods at the same time.
	Mark(ctx context.Context, pod string) error
	Unmark(ctx context.Context, pod string) error
	// NewNodes tells for which pods nodes are being added, in the words of whoever does.
	NewNodes(ctx context.Context) (map[string]string, error)
}

// Deployment is what the API server knows of one.
type Deployment struct {
	UID, Version string
	Replicas     int // that it is to have
	Pods         int // that there are, not counting those that are being deleted
	Updated      int // of these, that are of its present template
	Ready        int
	Observed     bool // its controller has seen its present specification
	Paused       bool
	// Failure is why its ReplicaSets cannot make or delete pods, "" if they can.
	Failure, FailureMessage string
}

// settled reports whether nothing is under way that would delete pods.
func (d Deployment) settled() bool {
	return d.Observed && d.Updated == d.Pods && d.Pods <= d.Replicas
}

// requestLimit bounds each request: an API server that answers does so in milliseconds.
const requestLimit = 5 * time.Second

// markCost is the annotation's value of a pod that is to go. It takes 32 bits; the lowest
// is left to others, since a mark that is not the Scaler's own is left alone.
const markCost = "-2147483647"

// Kubernetes is the Cluster that an API server serves.
type Kubernetes struct {
	apps, core *rest.RESTClient
	namespace  string
}

// NewKubernetes makes one, of a namespace.
func NewKubernetes(api *rest.Config, namespace string) (*Kubernetes, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(appsv1.AddToScheme(scheme)) // fails for programming errors alone
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.EventList{})
	for _, version := range []schema.GroupVersion{appsv1.SchemeGroupVersion, corev1.SchemeGroupVersion} {
		metav1.AddToGroupVersion(scheme, version)
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	client := func(path string, version schema.GroupVersion) (*rest.RESTClient, error) {
		config := rest.CopyConfig(api)
		config.APIPath, config.GroupVersion, config.NegotiatedSerializer = path, &version, codecs
		config.UserAgent = "rendezvous"
		config.QPS, config.Burst = 50, 2*batch
		// Connections of its own, and one request at a time on each: one that the network
		// has dropped in silence is closed with the first request that is not answered on it.
		config.NextProtos = []string{"http/1.1"}
		config.Dial = (&net.Dialer{Timeout: requestLimit}).DialContext
		made, err := rest.RESTClientFor(config)
		if err != nil {
			return nil, fmt.Errorf("client of the API server %s: %w", api.Host, err)
		}
		return made, nil
	}
	k := &Kubernetes{namespace: namespace}
	var err error
	if k.apps, err = client("/apis", appsv1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	k.core, err = client("/api", corev1.SchemeGroupVersion)
	return k, err
}

// Deployment implements Cluster.
func (k *Kubernetes) Deployment(ctx context.Context, name string) (Deployment, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	var d appsv1.Deployment
	if err := k.apps.Get().Namespace(k.namespace).Resource("deployments").Name(name).Do(ctx).Into(&d); err != nil {
		return Deployment{}, fmt.Errorf("get Deployment %s: %w", name, err)
	}
	read := Deployment{
		UID: string(d.UID), Version: d.ResourceVersion, Replicas: 1, // the API's default
		Pods: int(d.Status.Replicas), Updated: int(d.Status.UpdatedReplicas), Ready: int(d.Status.ReadyReplicas),
		Observed: d.Status.ObservedGeneration >= d.Generation, Paused: d.Spec.Paused,
	}
	if d.Spec.Replicas != nil {
		read.Replicas = int(*d.Spec.Replicas)
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			read.Failure, read.FailureMessage = c.Reason, c.Message
		}
	}
	return read, nil
}

// Scale implements Cluster.
func (k *Kubernetes) Scale(ctx context.Context, name string, read Deployment, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	scale := &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: "Scale", APIVersion: autoscalingv1.SchemeGroupVersion.String()},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: k.namespace, UID: types.UID(read.UID), ResourceVersion: read.Version,
		},
		Spec: autoscalingv1.ScaleSpec{Replicas: int32(replicas)},
	}
	body, err := json.Marshal(scale)
	if err != nil {
		return err
	}
	err = k.apps.Put().Namespace(k.namespace).Resource("deployments").Name(name).SubResource("scale").
		SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("scale Deployment %s to %d: %w", name, replicas, err)
	}
	return nil
}

// Mark implements Cluster.
func (k *Kubernetes) Mark(ctx context.Context, pod string) error {
	return k.annotate(ctx, pod, strconv.Quote(markCost))
}

// Unmark implements Cluster.
func (k *Kubernetes) Unmark(ctx context.Context, pod string) error {
	return k.annotate(ctx, pod, "null")
}

func (k *Kubernetes) annotate(ctx context.Context, pod, value string) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, corev1.PodDeletionCost, value)
	err := k.core.Patch(types.MergePatchType).Namespace(k.namespace).Resource("pods").Name(pod).Body([]byte(patch)).Do(ctx).Error()
	if err != nil && failure(err) != notFound {
		return fmt.Errorf("annotate pod %s: %w", pod, err)
	}
	return nil
}

// nodeEvents are the reasons of the events by which the cluster autoscaler and Karpenter
// say that they add a node for a pod.
var nodeEvents = []string{"TriggeredScaleUp", "Nominated"}

// maxEvents bounds what is read of them: a few pods are named in a message.
const maxEvents = 100

// NewNodes implements Cluster.
func (k *Kubernetes) NewNodes(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	said := make(map[string]string)
	for _, reason := range nodeEvents {
		var list corev1.EventList
		options := metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,reason=" + reason, Limit: maxEvents}
		err := k.core.Get().Namespace(k.namespace).Resource("events").VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(&list)
		if err != nil {
			return nil, fmt.Errorf("list events %s: %w", reason, err)
		}
		for _, event := range list.Items {
			said[event.InvolvedObject.Name] = event.Message
		}
	}
	return said, nil
}
