// Package discovery finds the addresses at which worker agents reach the
// rendezvous, and follows them as they change. Nothing in it is about R: it finds
// the addresses of any service.
//
// A [Source] is named by a specification: a fixed list ("static:10.0.0.7:7462"),
// a DNS name that is resolved again and again ("dns:future-rendezvous:7462") or
// a DNS service record ("srv:_psock._tcp.future-rendezvous"). [Parse] returns the
// source that a specification names.
//
// Every source keeps the same contract, which package discoverytest checks. A
// source of another kind lives in a package of its own, uses [Deliver], and is made
// known to Parse by [WithKind]. Package kube has such a kind, which watches
// Kubernetes; whoever does not import it does not build client-go.
//
// # Stability
//
// There is no version 1 yet: an exported identifier can still change, and then
// the changelog says so. Stable, in this sense:
//
//   - the specifications: one that Parse takes today it takes tomorrow, and
//     String returns one that it takes;
//   - the contract of Source.
//
// Not stable:
//
//   - the texts of errors;
//   - how often a name is resolved unless [WithInterval] says so, and how soon
//     again after a failure;
//   - the tests of package discoverytest: there may be more of them, which a source
//     that passes today then has to pass.
//
// The tests run on Linux. For macOS and Windows the package is compiled, its tests
// included, and not run. No version of R matters.
package discovery
