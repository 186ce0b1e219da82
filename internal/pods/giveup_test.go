package pods

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

func TestGiveUpDeletesTheRoleBinding(t *testing.T) {
	for name, tc := range map[string]struct {
		code int
		want string // of the error
	}{
		"deleted":             {http.StatusOK, ""},
		"deleted before":      {http.StatusNotFound, ""},
		"without the right":   {http.StatusForbidden, "RoleBinding future-test of namespace ns is not deleted, its rights go on: delete it with 'kubectl delete rolebinding future-test -n ns': "},
		"API server is upset": {http.StatusBadRequest, "its rights go on"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.Method+" "+r.URL.Path)
				status := metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: int32(tc.code)}
				if tc.code != http.StatusOK {
					status.Status, status.Reason = metav1.StatusFailure, metav1.StatusReasonForbidden
				}
				if tc.code == http.StatusNotFound {
					status.Reason = metav1.StatusReasonNotFound
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tc.code)
				_ = json.NewEncoder(w).Encode(status)
			}))
			defer server.Close()
			err := GiveUp(t.Context(), &rest.Config{Host: server.URL}, "ns", "future-test")
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if want := "DELETE /apis/rbac.authorization.k8s.io/v1/namespaces/ns/rolebindings/future-test"; len(asked) != 1 || asked[0] != want {
				t.Errorf("asked for %q, want %q", asked, want)
			}
		})
	}
}
