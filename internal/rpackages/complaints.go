package rpackages

import (
	"regexp"
	"strings"
)

const (
	// maxComplaints is how many lines are kept for a package: R's own error and
	// what led to it, such as a compiler's line.
	maxComplaints = 3
	// maxComplaint cuts each, in bytes.
	maxComplaint = 300
)

var (
	// installing is the line that R CMD INSTALL starts each package with. The
	// quotes around the name depend on the locale.
	installing = regexp.MustCompile(`^\* installing \*\w+\* package \W*([A-Za-z][A-Za-z0-9.]*[A-Za-z0-9])`)
	// complaint is a line that says what went wrong: R's, a compiler's
	// ("x.c:1:10: fatal error: foo.h: No such file"), or a linker's.
	complaint = regexp.MustCompile(`^(ERROR|Error|Warning: unable)|\b(error|cannot find)\b`)
)

// complaints collects from the output of an installation why packages fail. R
// itself only tells that the package is not there afterwards.
type complaints struct {
	current string // the package being installed
	lines   map[string][]string
}

// line takes the next line of the output.
func (c *complaints) line(text string) {
	if m := installing.FindStringSubmatch(text); m != nil {
		c.current = m[1]
		return
	}
	if c.current == "" || !complaint.MatchString(text) {
		return
	}
	if c.lines == nil {
		c.lines = make(map[string][]string)
	}
	if len(text) > maxComplaint {
		text = strings.ToValidUTF8(text[:maxComplaint], "")
	}
	lines := append(c.lines[c.current], strings.TrimSpace(text))
	c.lines[c.current] = lines[max(0, len(lines)-maxComplaints):]
}

// explain adds what the installation of a package complained about to what R
// said when it could not load it.
func (c *complaints) explain(name, text string) string {
	if lines := c.lines[name]; len(lines) > 0 {
		return text + " (installation: " + strings.Join(lines, "; ") + ")"
	}
	return text
}
