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
)

// Exec runs command in a container of the one running pod that selector names, and
// returns when it has ended: with an exec.CodeExitError when its exit code is not 0.
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
	if len(list.Items) == 0 {
		return fmt.Errorf("no pod %s is running in namespace %s", selector, namespace)
	}
	request := client.Post().Namespace(namespace).Resource("pods").Name(list.Items[0].Name).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: container, Command: command, Stdout: true, Stderr: true,
	}, runtime.NewParameterCodec(newScheme()))
	// The request that opens a WebSocket is a GET of the same address.
	executor, err := remotecommand.NewWebSocketExecutor(api, "GET", request.URL().String())
	if err != nil {
		return fmt.Errorf("exec in pod %s: %w", list.Items[0].Name, err)
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: stdout, Stderr: stderr})
}
