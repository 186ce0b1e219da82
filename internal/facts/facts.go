// Package facts holds what the rendezvous knows of the calls that R's packages make: the
// words by which each is told on the wire, what it does to a worker, and the versions of
// the package in which it was seen. TestInstalled asks the installed packages; when one of
// them changes, it names the fact that no longer holds.
//
// R's own facts, such as the names of functions, are in r/Rprofile.site.
package facts

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Call is what a call of the session's is for.
type Call uint8

const (
	// Unknown may do anything to the worker.
	Unknown Call = iota
	// Reset: future erases the worker's global environment, before each future.
	Reset
	// Validation: future asks whether a node works. The answer repeats ValidationText.
	Validation
	// Introduction: parallelly asks a new node for its R, system, libraries and process.
	Introduction
	// Cores: future has a new node count its cores, and ignores the answer.
	Cores
	// Load: somebody has the worker load the namespace of a package, as future does with
	// its own on each new node. To do so again changes nothing.
	Load
	// Comparison: the package rendezvous compares the versions of a worker's packages.
	Comparison
	// Collect: somebody has the worker collect garbage, as future does with gc = TRUE.
	Collect
	// Attach: a user has the worker attach one package, by its name: clusterEvalQ(cl, library(x)).
	// Done on another worker of the image it has the same effect there.
	Attach
)

// String is the call's name in logs and tests.
func (c Call) String() string {
	names := [...]string{"unknown", "reset", "validation", "introduction", "cores", "load", "comparison", "collect", "attach"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("call %d", c)
}

// Keeps reports whether the call leaves the worker as it was: its answer is the same on
// every worker of one image, but for what tells workers apart.
func (c Call) Keeps() bool {
	return c == Validation || c == Introduction || c == Cores || c == Comparison || c == Collect
}

const (
	// ResetText is in the call of a Reset, and is its answer.
	ResetText = "future-grmall"
	// ValidationText is the argument of a Validation, and its answer.
	ValidationText = "future:::requestNode() validation call"
)

const (
	// ClearedText is the answer to a call that future makes after a Reset that no future
	// follows: with gc = TRUE it erases a future's worker once more when it has the result
	// (receiveMessageFromWorker(), 1.31.0, 1.75.0).
	ClearedText   = "future-clearing-cluster-worker"
	collectedText = "future-gc"              // to the collection of garbage, in a function (1.75.0)
	attachedText  = "future-requirePackages" // to that of a future's packages, before its reset with earlySignal = TRUE (1.75.0)
	assignedText  = "future-grassign"        // to that of a global variable, after its reset (1.31.0)
)

// Own reports whether a call was future's own by its answer, if that is a short string. It is
// then no state of the user's: globals and packages are sent with each future that needs them.
func Own(answer string) bool {
	switch answer {
	case ResetText, ClearedText, collectedText, attachedText, assignedText:
		return true
	}
	return false
}

// Collects reports whether a call that is told to be so, and was answered by a short string, is
// future's last on a worker that it has cleared.
func Collects(call Call, answer string) bool { return call == Collect || answer == collectedText }

// Done are the classes of a value by which a worker answers a future's last call: what
// comes before that prepares the future.
var Done = []string{"FutureResult", launchError}

// launchError is a class of what evalFuture() of future answers when it cannot run the future
// (1.75, not 1.31). The function is sent with its body.
const launchError = "FutureLaunchError"

// LaunchErrors are the classes of such an answer: the session's future fails with it and can be
// reset. An R error in its place it takes for one of its own, and the future for running.
var LaunchErrors = []string{launchError, "FutureError", "simpleError", "error", "condition"}

// TakesLaunchErrors reports whether the session takes such an answer to the call whose first
// bytes are given.
func TakesLaunchErrors(head []byte) bool { return bytes.Contains(head, []byte(launchError)) }

// EndsCall reports whether p ends as every call does: with the last of its list's names (type,
// data, tag), as postNode() of parallel has them (4.2.2, 4.6.1).
func EndsCall(p []byte) bool {
	return bytes.HasSuffix(p, []byte("tag\xfe\x00\x00\x00")) || bytes.HasSuffix(p, []byte("tag\x00\x00\x00\xfe"))
}

// Limit bounds the calls that Of can tell, in bytes. The largest, a Load, has 8 KB.
const Limit = 16 << 10

// Fact is how a call is told, and where that was seen.
type Fact struct {
	Call Call
	// Package makes the call; Seen are the versions of it that were looked at.
	Package string
	Seen    []string
	// Limit bounds the size of such a call, in bytes.
	Limit int
	// Words are all in the call, in the machine's byte order: XDRWords in R's other one.
	Words, XDRWords [][]byte
}

// All are the facts, in the order in which they are tried.
var All = []Fact{
	// grmall() of future/R/ClusterFuture-class.R, which is sent with its body: 1.8 KB.
	fact(Reset, "future", []string{"1.31.0", "1.75.0"}, Limit, text(ResetText)),
	// requestNode(): clusterCall(cl, identity, text): 439 bytes.
	fact(Validation, "future", []string{"1.75.0"}, 1<<10, arguments(1, stringVector(ValidationText))),
	// get_session_info() of parallelly, a function in the namespace of utils, which is sent with
	// its body: 1.6 KB. Its words were the same in all versions, in another order.
	fact(Introduction, "parallelly", []string{"1.34.0", "1.47.0"}, 4<<10,
		function(inNamespace("utils")), formal("pkgs", typeLogical, 1, 0),
		text(".libPaths"), text("R.version"), text("os.type"), text(".Platform"), text("Sys.info"),
		text("installed.packages"), text("getwd"), text("Sys.getpid")),
	// .makeCluster(): clusterEvalQ(cl, parallelly::availableCores()): 1 KB.
	fact(Cores, "future", []string{"1.75.0"}, 2<<10, text("enclos"), arguments(2, callOf("parallelly", "availableCores"))),
	// .makeCluster(): clusterCall(cl, requireNamespace, "future", quietly = TRUE), with the body
	// of base's function: 6 KB in R 4.2, 8 KB in R 4.6. No other of base has these arguments.
	fact(Load, "base", []string{"4.2.2", "4.6.1"}, Limit,
		function(inBase, formal("package", missing), formal("...", missing), formal("quietly", typeLogical, 1, 0))),
	// compare() of r/rendezvous: the versions of the packages that the session has loaded.
	fact(Comparison, "rendezvous", []string{"0.1.0"}, Limit,
		function(inBaseEnvironment, formal("packages", missing), formal("caller", typeString, 1)), text("rendezvous:::compare()")),
	// receiveMessageFromWorker(): clusterCall(cl, gc, verbose = FALSE, reset = FALSE), with the
	// body of base's function. 1.75 does it in a function of its own, see Own.
	fact(Collect, "future", []string{"1.31.0"}, Limit, function(inBase, formal("verbose", typeCall)), text("full")),
}

// Of tells what a call is for, given all of its message. One that is longer than Limit is
// Unknown.
func Of(message []byte) Call {
	for _, f := range All {
		if f.holds(message) {
			return f.Call
		}
	}
	if len(message) <= Limit && attaches(message) {
		return Attach
	}
	return Unknown
}

func (f Fact) holds(message []byte) bool {
	if len(message) > f.Limit {
		return false
	}
	words := f.Words
	if bytes.HasPrefix(message, []byte("X\n")) {
		words = f.XDRWords
	}
	for _, word := range words {
		if !bytes.Contains(message, word) {
			return false
		}
	}
	return true
}

// word writes itself in a byte order.
type word func(b []byte, order binary.AppendByteOrder) []byte

func fact(call Call, from string, seen []string, limit int, words ...word) Fact {
	f := Fact{Call: call, Package: from, Seen: seen, Limit: limit}
	for _, w := range words {
		f.Words = append(f.Words, w(nil, binary.LittleEndian))
		f.XDRWords = append(f.XDRWords, w(nil, binary.BigEndian))
	}
	return f
}

// R's types of objects in a serialized stream, and their flags (src/main/serialize.c).
const (
	typeSymbol, typePairlist, typeCall, typeChar = 1, 2, 6, 9
	typeClosure, typeLogical                     = 3, 10
	typeString, typeList, typeNull               = 16, 19, 254
	missing, base, namespace                     = 251, 250, 249 // no default; where a function is from
	global, baseEnvironment                      = 253, 241
	ascii                                        = 1 << 18
	hasAttributes                                = 1 << 9
	hasTag                                       = 1 << 10
)

// text is a name or a string, wherever it stands.
func text(s string) word {
	return func(b []byte, _ binary.AppendByteOrder) []byte { return append(b, s...) }
}

// function is how the data of a call begins, list(fun, args, return, tag): with a function of
// this environment, and these arguments first.
func function(parts ...word) word {
	return func(b []byte, order binary.AppendByteOrder) []byte {
		b = numbers(b, order, typeList|hasAttributes, 4, typeClosure|hasTag)
		for _, part := range parts {
			b = part(b, order)
		}
		return b
	}
}

func inBase(b []byte, order binary.AppendByteOrder) []byte { return numbers(b, order, base) }

func inBaseEnvironment(b []byte, order binary.AppendByteOrder) []byte {
	return numbers(b, order, baseEnvironment)
}

// inNamespace is the beginning of a reference to one, which the package's version follows.
func inNamespace(name string) word {
	return func(b []byte, order binary.AppendByteOrder) []byte {
		return char(numbers(b, order, namespace, 0, 2), order, name)
	}
}

// formal is an argument of a function, with its default.
func formal(name string, value ...uint32) word {
	return func(b []byte, order binary.AppendByteOrder) []byte {
		return numbers(char(numbers(b, order, typePairlist|hasTag, typeSymbol), order, name), order, value...)
	}
}

// arguments is the beginning of a call's list of n arguments: its first one. With two or
// more, some have names.
func arguments(n uint32, first word) word {
	return func(b []byte, order binary.AppendByteOrder) []byte {
		flags := uint32(typeList)
		if n > 1 {
			flags |= hasAttributes
		}
		return first(numbers(b, order, flags, n), order)
	}
}

// stringVector is a character vector of one string.
func stringVector(s string) word {
	return func(b []byte, order binary.AppendByteOrder) []byte {
		return char(numbers(b, order, typeString, 1), order, s)
	}
}

// callOf is the unevaluated call from::function().
func callOf(from, function string) word {
	return func(b []byte, order binary.AppendByteOrder) []byte {
		b = numbers(b, order, typeCall, typeCall)
		for i, symbol := range []string{"::", from, function} {
			if i > 0 {
				b = numbers(b, order, typePairlist)
			}
			b = char(numbers(b, order, typeSymbol), order, symbol)
		}
		return numbers(b, order, typeNull, typeNull)
	}
}

func char(b []byte, order binary.AppendByteOrder, s string) []byte {
	return append(numbers(b, order, typeChar|ascii, uint32(len(s))), s...)
}

func numbers(b []byte, order binary.AppendByteOrder, values ...uint32) []byte {
	for _, v := range values {
		b = order.AppendUint32(b, v)
	}
	return b
}
