// Package kube finds the rendezvous by the EndpointSlices of its Service, watched at
// the Kubernetes API server: a pod that is replaced is found as soon as the API says
// so. It needs a service account that may get, list and watch endpointslices.
//
// It is a package of its own so that only programs that want it build client-go.
// [Kind] makes it known to discovery.Parse.
//
// # Stability
//
// As in package discovery: the specification is stable, the texts of errors are not.
// It asks for version v1 of discovery.k8s.io; the tests on a cluster run with
// Kubernetes 1.34. [WithAPI] takes client-go's rest.Config, and so changes when that
// does. No version of R matters.
package kube
