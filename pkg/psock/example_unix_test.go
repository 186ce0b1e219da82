//go:build linux || darwin

package psock_test

import (
	"fmt"
	"log"

	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// A process that fails, its output, and why it ended. For a worker, Args are those of a
// [psock.Command].
func ExampleStart() {
	process, err := psock.Start(psock.Spec{
		Args:   []string{"sh", "-c", "echo loading; echo 'Error: cannot allocate vector' >&2; exit 1"},
		Output: func(line psock.Line) { fmt.Printf("%s (stderr %v)\n", line.Text, line.Stderr) },
	})
	if err != nil {
		log.Fatal(err)
	}
	// To end it and all that it has started before it ends: process.Stop(5 * time.Second).
	<-process.Done()
	fmt.Println(process.Exit())
	// Unordered output:
	// loading (stderr false)
	// Error: cannot allocate vector (stderr true)
	// exit status 1: Error: cannot allocate vector
}
