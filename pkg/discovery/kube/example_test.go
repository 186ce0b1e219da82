package kube_test

import (
	"fmt"
	"log"

	"k8s.io/client-go/rest"

	"github.com/psock-runtime/psock-runtime/pkg/discovery"
	"github.com/psock-runtime/psock-runtime/pkg/discovery/kube"
)

// In a pod, kube.Kind() without an option uses the service account.
func ExampleKind() {
	api := &rest.Config{Host: "https://192.0.2.1:6443", BearerToken: "token"}
	source, err := discovery.Parse("kubernetes:future-rendezvous:agents",
		discovery.WithKind(kube.Kind(kube.WithAPI(api, "default"))))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(source)
	// Output:
	// kubernetes:future-rendezvous:agents
}
