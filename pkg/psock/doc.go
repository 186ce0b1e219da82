// Package psock holds what a program needs to know of R's PSOCK clusters to
// stand on either end of one without being R.
//
// A PSOCK cluster is an R session (the master) that listens on a TCP port, and
// R processes (the workers) that dial it and then run the work loop of R's own
// parallel package: read one serialized object, evaluate it, write one
// serialized object back. The package has four parts, which do not depend on
// each other:
//
//   - [Command] writes the command line of a worker, argument for argument as
//     the R package parallelly writes it, so that a worker started here cannot
//     be told from one started by R.
//   - [Process] runs such a command line in a process group of its own, passes
//     its output on line by line, ends it and everything it started, and knows
//     what ended it: the exit code, the signal, a lack of memory, its last words.
//   - [Scanner] finds the bounds of the objects in a PSOCK byte stream and what
//     kind of message each one is, without changing, delaying or copying a byte
//     of them.
//   - [AppendText], [AppendError] and [AppendCondition] write the answer of a
//     worker, for a program that answers in the place of one.
//
// The package does nothing on the network and starts no goroutine that its
// caller did not ask for. It is a module of its own: whoever requires it gets
// golang.org/x/sys, and what its tests need, into the module graph.
//
// # Versions of R
//
// The tests run with R 4.2 and parallelly 1.34, and with R 4.6 and parallelly
// 1.47. The Scanner knows versions 2 (R >= 1.4) and 3 (R >= 3.5) of R's
// serialization, and becomes opaque in what it does not know. The answers are of
// version 2. The work loop has been called .workRSOCK since R 4.1; a Command
// knows the earlier name as well.
//
// # Systems
//
// The tests run on Linux. For macOS and Windows the package is compiled, its
// tests included, and not run. [Start] works on Linux and macOS, where [Process]
// says what differs; on any other system it returns an error that wraps
// [errors.ErrUnsupported]. All else is the same everywhere. R's front end is
// taken for the shell script that it is on Unix.
//
// # Stability
//
// There is no version 1 yet: an exported identifier can still change, and then
// the changelog says so. Stable, in this sense:
//
//   - what Scan returns, and the meaning of each field of [Message];
//   - what R reads an answer as;
//   - what the fields of [Command] have the worker do;
//   - which processes [Process.Interrupt] and [Process.Stop] end, and when.
//
// Not stable:
//
//   - the arguments that [Command.Args] returns: they follow parallelly, and what
//     lets R start sooner;
//   - the texts of errors and of [Exit.String];
//   - which streams become opaque: one day the Scanner may know what it does not
//     know today;
//   - the set of fields of each struct: more may come, so name them in literals.
package psock
