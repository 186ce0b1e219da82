package pods

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// GiveUp deletes a RoleBinding, as a rule that of the caller's own rights. One that is not
// there is no error: somebody else was faster.
func GiveUp(ctx context.Context, api *rest.Config, namespace, name string) error {
	client, err := newClient(api)
	if err != nil {
		return err
	}
	err = client.Delete().AbsPath("/apis/rbac.authorization.k8s.io/v1").Namespace(namespace).Resource("rolebindings").Name(name).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("RoleBinding %s of namespace %s is not deleted, its rights go on: delete it with 'kubectl delete rolebinding %s -n %s': %w", name, namespace, name, namespace, err)
	}
	return nil
}
