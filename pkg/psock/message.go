package psock

import "time"

// Kind is what a PSOCK message is for.
type Kind uint8

// The kinds of message that R's parallel package sends.
const (
	// KindUnknown is a message whose first element has not been seen yet, or
	// which is none of the kinds below. R's work loop ignores such a message.
	KindUnknown Kind = iota
	// KindExec asks a worker to call a function: list(type = "EXEC", data =
	// list(fun, args, return, tag), tag).
	KindExec
	// KindDone asks a worker to leave its work loop: list(type = "DONE", data,
	// tag).
	KindDone
	// KindValue comes from a worker: list(type = "VALUE", value, success,
	// time, tag), or something that future sends ahead of that, see
	// [Message.Final].
	KindValue
)

// String returns the type element of such a message, "unknown" for
// [KindUnknown].
func (k Kind) String() string {
	switch k {
	case KindExec:
		return "EXEC"
	case KindDone:
		return "DONE"
	case KindValue:
		return "VALUE"
	default:
		return "unknown"
	}
}

// Message is what a [Scanner] knows of one message. While the message is still
// arriving every field holds what has been seen so far.
type Message struct {
	// Kind is known as soon as the first element has arrived, some 50 bytes
	// into the message.
	Kind Kind
	// Bytes is the size of the message on the wire.
	Bytes int64
	// XDR tells big-endian XDR, which makePSOCKcluster of the parallel package
	// writes, from little-endian native binary, which parallelly writes. R
	// reads either, so an answer need not match its question.
	XDR bool
	// Tagged says that an EXEC has a tag, by which the caller tells its answers
	// apart: clusterApplyLB loses an answer that does not repeat it.
	Tagged bool
	// Success is the third element of a VALUE: FALSE when the call failed in
	// the worker, and then the value has class "snow-try-error".
	Success bool
	// Elapsed is how long a VALUE took to compute by the worker's own clock:
	// time[["elapsed"]], which R measures in milliseconds. Zero when absent.
	Elapsed time.Duration
	// Text is the value of a VALUE that is one string of at most 32 bytes
	// without attributes, such as "future-grmall" by which future confirms
	// that the worker's global environment is empty. Its encoding is R's.
	Text string
	// Final tells the answer of parallel's work loop from what a worker sends
	// of its own accord. future >= 1.40 relays conditions while a future still
	// runs, as list(type = "VALUE", value, success = TRUE); only the answer
	// has five elements with a logical in the third place and a time in the
	// fourth. The names of the elements are not compared: they come after
	// the data.
	Final bool
	// Class is the first of [Scanner.Classes] among the strings of a VALUE's attributes,
	// "" if there is none: future's worker answers a value of class "FutureResult" when the
	// future is done, and others to the calls that prepare it.
	Class string
}
