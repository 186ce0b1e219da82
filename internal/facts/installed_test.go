package facts_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// TestInstalled has the installed R, future and parallelly make the calls and answers that
// the facts are about, in both byte orders. A failure names the fact that has changed.
func TestInstalled(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("Rscript", "testdata/calls.R", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("R: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	has := make(map[string]bool) // what the installed packages do
	for line := range strings.Lines(string(out)) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), "has "); found {
			has[name] = true
		}
	}
	calls := map[string]facts.Call{
		"reset": facts.Reset, "introduction": facts.Introduction, "load": facts.Load,
		"validation": facts.Validation, "cores": facts.Cores,
		"comparison": facts.Comparison, "comparison-compiled": facts.Comparison, "user-comparison": facts.Unknown,
		"collect": facts.Collect, "attach": facts.Attach, "attach-string": facts.Attach,
		// What looks like them, and may do anything.
		"attach-kept": facts.Unknown, "attach-more": facts.Unknown, "attach-from": facts.Unknown, "attach-where": facts.Unknown,
		"attach-named": facts.Unknown, "attach-applied": facts.Unknown, "user-collect": facts.Unknown,
		"cores-kept": facts.Unknown, "user-load": facts.Unknown, "load-passed": facts.Unknown, "load-applied": facts.Unknown, "validation-aside": facts.Unknown, "user-info": facts.Unknown,
	}
	for name, want := range calls {
		for _, class := range []string{"SOCK0node", "SOCKnode"} {
			t.Run(name+"/"+class, func(t *testing.T) {
				message, err := os.ReadFile(filepath.Join(dir, name+"-"+class))
				if err != nil {
					t.Fatal(err)
				}
				var scanner psock.Scanner
				if n, done := scanner.Scan(message); !done || n != len(message) || scanner.Message().Kind != psock.KindExec {
					t.Fatalf("%d bytes are not one whole call: %+v", len(message), scanner.Message())
				}
				if !facts.EndsCall(message) || facts.EndsCall(message[:len(message)-1]) {
					t.Errorf("a call ends with %q", message[len(message)-8:])
				}
				if got := facts.Of(message); got != want {
					t.Errorf("a call of %d bytes is told to be %v, want %v", len(message), got, want)
				}
			})
		}
	}
	for _, name := range []string{"result", "launch-error", "other"} {
		if name == "launch-error" && !has["evalFuture() answers FutureLaunchError"] {
			continue // not in 1.31 and 1.34
		}
		t.Run(name, func(t *testing.T) {
			message, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			scanner := psock.Scanner{Classes: facts.Done}
			if _, done := scanner.Scan(message); !done {
				t.Fatal("no whole answer")
			}
			class := scanner.Message().Class
			if name == "other" {
				if class != "" {
					t.Errorf("a value of another class is told to be %s", class)
				}
				return
			}
			if !slices.Contains(facts.Done, class) {
				t.Errorf("a future's last answer has class %q of %v", class, facts.Done)
			}
		})
	}
	if has["evalFuture() answers FutureLaunchError"] {
		for _, class := range []string{"SOCK0node", "SOCKnode"} {
			message, err := os.ReadFile(filepath.Join(dir, "last-"+class))
			if err != nil {
				t.Fatal(err)
			}
			if !facts.TakesLaunchErrors(message[:min(len(message), facts.Limit)]) {
				t.Error("a future's last call does not show that its session takes a launch error")
			}
		}
		classes, err := os.ReadFile(filepath.Join(dir, "launch-classes"))
		if err != nil {
			t.Fatal(err)
		}
		for _, class := range facts.LaunchErrors {
			if !bytes.Contains(classes, []byte(class)) {
				t.Errorf("a launch error is no %s", class)
			}
		}
	}
	// What is in the packages' own code is what the calls above were made of.
	for _, name := range []string{"grmall() answers " + facts.ResetText, "a future is cleared by " + facts.ClearedText, "a future answers FutureResult", "clusterEvalQ() calls eval"} {
		if !has[name] {
			t.Errorf("the installed packages do not hold to: %s", name)
		}
	}
	if has["a future newer than 1.34"] != has["requestNode() validates by "+facts.ValidationText] {
		t.Errorf("requestNode() of the installed future does not validate a node by %q", facts.ValidationText)
	}
	if has["a future newer than 1.34"] != has[".makeCluster() counts cores"] || has["a future newer than 1.34"] != has[".makeCluster() loads future"] {
		t.Error(".makeCluster() of the installed future does not set nodes up as the facts say")
	}
}

// TestOf shows what is not told: a call that is too long, and one that is cut.
func TestOf(t *testing.T) {
	for _, f := range facts.All {
		for _, words := range [][][]byte{f.Words, f.XDRWords} {
			head := []byte("B\n")
			if &words[0] == &f.XDRWords[0] {
				head = []byte("X\n")
			}
			message := append(head, slices.Concat(words...)...)
			if got := facts.Of(message); got != f.Call {
				t.Errorf("%v: its words are told to be %v", f.Call, got)
			}
			if got := facts.Of(message[:len(message)-1]); got != facts.Unknown {
				t.Errorf("%v: without the last byte they are told to be %v", f.Call, got)
			}
			if got := facts.Of(append(message, make([]byte, f.Limit)...)); got != facts.Unknown {
				t.Errorf("%v: beyond its limit it is told to be %v", f.Call, got)
			}
		}
	}
}
