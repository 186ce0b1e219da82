package psock_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// The messages of a stream, which arrives in pieces of any size.
func ExampleScanner() {
	var stream []byte // what an R session sends: a call, and that the worker may end
	for _, file := range []string{"exec-SOCK0node.bin", "done-SOCK0node.bin"} {
		message, err := os.ReadFile("testdata/scanner/" + file)
		if err != nil {
			log.Fatal(err)
		}
		stream = append(stream, message...)
	}

	var scanner psock.Scanner
	for piece := range slices.Chunk(stream, 100) {
		for len(piece) > 0 {
			n, done := scanner.Scan(piece)
			piece = piece[n:]
			if done {
				m := scanner.Message()
				fmt.Printf("%s, %d bytes\n", m.Kind, m.Bytes)
			}
		}
	}
	if err := scanner.Opaque(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// EXEC, 2222 bytes
	// DONE, 127 bytes
}

// What a scanner tells of a worker's answers.
func ExampleScanner_Message() {
	answers := psock.AppendText(nil, "hello", false)
	answers = psock.AppendError(answers, "object 'x' not found", false)

	var scanner psock.Scanner
	for len(answers) > 0 {
		n, done := scanner.Scan(answers)
		answers = answers[n:]
		if m := scanner.Message(); done {
			fmt.Printf("%s: success %v, text %q, ends the call %v\n", m.Kind, m.Success, m.Text, m.Final)
		}
	}
	// Output:
	// VALUE: success true, text "hello", ends the call true
	// VALUE: success false, text "", ends the call true
}

// A proxy need not look at bulk data. Between two TCP connections, io.CopyN moves it
// within the kernel where the system can.
func ExampleScanner_Skip() {
	from := bytes.NewReader(psock.AppendText(nil, strings.Repeat("x", 50_000), false))
	to := io.Discard

	var scanner psock.Scanner
	looked, buf := 0, make([]byte, 128)
	for {
		moved, err := io.CopyN(to, from, scanner.Skip())
		scanner.Advance(moved)
		if err != nil {
			log.Fatal(err)
		}
		n, err := from.Read(buf)
		if err != nil {
			log.Fatal(err)
		}
		looked += n
		if _, err := to.Write(buf[:n]); err != nil {
			log.Fatal(err)
		}
		// One message: a longer stream has the start of the next in buf.
		if _, done := scanner.Scan(buf[:n]); done {
			break
		}
	}
	fmt.Printf("looked at %d bytes of %d\n", looked, scanner.Message().Bytes)
	// Output:
	// looked at 438 bytes of 50368
}

// The command of a worker that connects to a session on another host.
func ExampleCommand() {
	command := psock.Command{
		Master:  "session.example.org",
		Port:    11000,
		Startup: []string{"options(digits = 15)"},
		Timeout: time.Hour,
	}
	for _, arg := range command.Args() {
		fmt.Println(arg)
	}
	// Output:
	// Rscript
	// --default-packages=datasets,utils,grDevices,graphics,stats,methods
	// -e
	// options(socketOptions = "no-delay"); invisible({options(digits = 15)}); workRSOCK <- tryCatch(parallel:::.workRSOCK, error=function(e) parallel:::.slaveRSOCK); workRSOCK()
	// MASTER=session.example.org
	// PORT=11000
	// OUT=
	// TIMEOUT=3600
	// XDR=FALSE
	// SETUPTIMEOUT=120
	// SETUPSTRATEGY=sequential
}
