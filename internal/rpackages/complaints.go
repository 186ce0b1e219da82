package rpackages

import (
	"regexp"
	"slices"
	"strings"
)

const (
	// maxComplaints is how many lines are kept: R's own error and what led to
	// it, such as a compiler's line.
	maxComplaints = 4
	// maxComplaint cuts each, in bytes.
	maxComplaint = 300
)

// complaint is a line that says what went wrong: R's, a compiler's
// ("x.c:1:10: fatal error: foo.h: No such file"), or a linker's.
var complaint = regexp.MustCompile(`^(ERROR|Error|Warning: unable)|\b(error|cannot find)\b`)

// complaints collects from the output of an installation why packages fail. R
// itself only tells that the package is not there afterwards.
type complaints []string

// line takes the next line of the output.
func (c *complaints) line(text string) {
	if !complaint.MatchString(text) {
		return
	}
	if len(text) > maxComplaint {
		text = strings.ToValidUTF8(text[:maxComplaint], "")
	}
	text = strings.TrimSpace(text)
	if slices.Contains(*c, text) {
		return
	}
	lines := append(*c, text)
	*c = lines[max(0, len(lines)-maxComplaints):]
}
