package pods

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// Exec runs command in a container of a running pod that selector names, and returns
// when it has ended: with an exec.CodeExitError when its exit code is not 0. When ctx
// ends before, the last bytes may reach stdout and stderr after the return.
func Exec(ctx context.Context, api *rest.Config, namespace string, selector labels.Selector, container string, command []string, stdout, stderr io.Writer) error {
	client, err := newClient(api)
	if err != nil {
		return err
	}
	var list corev1.PodList
	options := metav1.ListOptions{LabelSelector: selector.String(), FieldSelector: "status.phase=Running"}
	if err := client.Get().Namespace(namespace).Resource("pods").VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(&list); err != nil {
		return fmt.Errorf("list pods %s of namespace %s: %w", selector, namespace, err)
	}
	pod := choose(list.Items)
	if pod == "" {
		return fmt.Errorf("no pod %s is running in namespace %s: see 'kubectl get pods -l %s'", selector, namespace, selector)
	}
	request := client.Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: container, Command: command, Stdout: true, Stderr: true,
	}, runtime.NewParameterCodec(newScheme()))
	executor, err := newExecutor(api, request)
	if err != nil {
		return fmt.Errorf("exec in pod %s: %w", pod, err)
	}
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: stdout, Stderr: stderr}); err != nil {
		return fmt.Errorf("container %s of pod %s: %w", container, pod, err)
	}
	return nil
}

// choose names the pod to run in, "" for none: one that is ready before one that is
// not, and none that is about to go, as the old one of an upgrade is.
func choose(pods []corev1.Pod) (name string) {
	for i := range pods {
		if pods[i].DeletionTimestamp != nil {
			continue
		}
		ready := condition(&pods[i], corev1.PodReady)
		if ready != nil && ready.Status == corev1.ConditionTrue {
			return pods[i].Name
		}
		if name == "" {
			name = pods[i].Name
		}
	}
	return name
}

// newExecutor streams over a WebSocket, and over SPDY where an API server before
// Kubernetes 1.30, or a proxy before it, refuses that.
func newExecutor(api *rest.Config, request *rest.Request) (remotecommand.Executor, error) {
	spdy, err := remotecommand.NewSPDYExecutor(api, "POST", request.URL())
	if err != nil {
		return nil, err
	}
	// The request that opens a WebSocket is a GET of the same address.
	socket, err := remotecommand.NewWebSocketExecutor(api, "GET", request.URL().String())
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}
