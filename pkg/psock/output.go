package psock

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	// maxLine bounds a line, in bytes. It is the size of the read buffer of
	// each stream, so two of these are the memory that a process costs; and
	// 16 KB is where container runtimes split log lines.
	maxLine = 16 << 10
	// cutMark ends a line of which the rest was dropped.
	cutMark = " [line cut]"
	// lastLines and lastLineLen bound what is kept to tell why a process
	// ended: 10 lines hold R's error, its traceback of calls and "Execution
	// halted", and fit into a Kubernetes termination message (4,096 bytes)
	// unless they are long.
	lastLines   = 10
	lastLineLen = 512
)

// Line is one line that a process wrote.
type Line struct {
	// Text is the line without its end, valid UTF-8 (other bytes are replaced
	// by U+FFFD), at most 16 KB long; a longer one is cut, and says so.
	Text string
	// Stderr says which of the two streams it came from.
	Stderr bool
}

// output passes the lines of a process on, one at a time, and keeps the last.
type output struct {
	emit func(Line)

	mu   sync.Mutex
	last []string
}

// read passes lines on until r ends, fails, or its deadline passes. The last
// line need not be complete.
func (o *output) read(r io.Reader, stderr bool) {
	buf := bufio.NewReaderSize(r, maxLine)
	cut := false // the buffer goes on with the rest of a line that was cut
	for {
		chunk, err := buf.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		switch {
		case cut:
		case full:
			o.line(chunk, true, stderr)
		case err == nil || len(chunk) > 0:
			o.line(chunk, false, stderr)
		}
		cut = full
		if err != nil && !full {
			return
		}
	}
}

func (o *output) line(chunk []byte, cut, stderr bool) {
	chunk = bytes.TrimSuffix(chunk, []byte("\n"))
	chunk = bytes.TrimSuffix(chunk, []byte("\r"))
	text := strings.ToValidUTF8(string(chunk), string(utf8.RuneError))
	if cut || len(text) > maxLine { // a replaced byte has grown to three
		text = cutRunes(text, maxLine-len(cutMark)) + cutMark
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if strings.TrimSpace(text) != "" {
		if len(o.last) == lastLines {
			o.last = append(o.last[:0], o.last[1:]...)
		}
		// Cloned, so that a short line does not keep a long one in memory.
		o.last = append(o.last, strings.Clone(cutRunes(text, lastLineLen)))
	}
	if o.emit != nil {
		o.emit(Line{Text: text, Stderr: stderr})
	}
}

func (o *output) lastLines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// cutRunes returns the first n bytes of s, fewer when the cut would fall into
// the middle of a character.
func cutRunes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range utf8.UTFMax {
		if n > i && utf8.RuneStart(s[n-i]) {
			return s[:n-i]
		}
	}
	return s[:n]
}
