// Package testkit is what the tests of several packages share: waits that end, connections and
// ports on loopback, certificates, metrics, and a Kubernetes API server that is no more than a
// watch needs. Only tests import it, and TestOnlyTestsImportTestkit sees to that.
//
// It imports little of this module, so that the tests of almost every package can use it. What
// needs internal/link is in the package agents below it.
package testkit
