package pods

import (
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// apiServer is as much of an API server as a watch of pods needs.
type apiServer struct {
	*testkit.APIServer[corev1.Pod]
}

func newAPIServer(t *testing.T) *apiServer {
	return &apiServer{testkit.NewAPIServer[corev1.Pod](t, "v1", "Pod")}
}

// set makes or changes a pod; a nil status deletes it.
func (s *apiServer) set(name string, status *corev1.PodStatus) { s.setWith(name, status, nil) }

// setWith is set of a pod that is changed further.
func (s *apiServer) setWith(name string, status *corev1.PodStatus, change func(*corev1.Pod)) {
	s.Change(name, func(old corev1.Pod, version string) (corev1.Pod, bool) {
		pod := corev1.Pod{
			TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), ResourceVersion: version},
		}
		if change != nil {
			change(&pod)
		}
		pod.Status = old.Status
		if status != nil {
			pod.Status = *status
		}
		return pod, status != nil
	})
}

// watches counts the requests to watch, without those that are to begin with a list.
func (s *apiServer) watches() (n int) {
	for _, query := range s.Queries() {
		if strings.Contains(query, "watch=true") && !strings.Contains(query, "sendInitialEvents") {
			n++
		}
	}
	return n
}
