// Package psock holds what a program needs to know of R's PSOCK clusters to
// stand on either end of one without being R.
//
// A PSOCK cluster is an R session (the master) that listens on a TCP port, and
// R processes (the workers) that dial it and then run the work loop of R's own
// parallel package: read one serialized object, evaluate it, write one
// serialized object back. The package has three parts, which do not depend on
// each other:
//
//   - [Command] writes the command line of a worker, argument for argument as
//     the R package parallelly writes it, so that a worker started here cannot
//     be told from one started by R.
//   - [Process] runs such a command line in a process group of its own, passes
//     its output on line by line, ends it and everything it started, and knows
//     what ended it: the exit code, the signal, a lack of memory, its last words.
//   - The message scanner finds the bounds of the objects in a PSOCK byte
//     stream and what kind of message each one is, without changing, delaying
//     or copying a byte of them.
//
// The package does nothing on the network and starts no goroutine that its
// caller did not ask for.
package psock
