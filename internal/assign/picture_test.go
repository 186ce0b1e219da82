package assign

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the picture of the states into docs/architecture.md")

// picture draws the table of states as Mermaid does, with the phase of each that is called otherwise.
func picture() string {
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n  [*] --> starting\n")
	for from, state := range states {
		if phase := string(state.phase); phase != "" && phase != state.name {
			fmt.Fprintf(&b, "  %s: %s (seen as %s)\n", state.name, state.name, phase)
		}
		for _, to := range state.next {
			fmt.Fprintf(&b, "  %s --> %s\n", State(from), to)
		}
	}
	return b.String() + "```\n"
}

// The contributors' page shows the states as they are.
func TestPictureOfTheStates(t *testing.T) {
	const page, begin, end = "../../docs/architecture.md", "<!-- generated: states of a slot -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	shown, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the picture, between %q and %q", page, begin, end)
	}
	if shown == picture() {
		return
	}
	if !*update {
		t.Fatalf("%s shows other states: run make generate", page)
	}
	if err := os.WriteFile(page, []byte(before+begin+picture()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
