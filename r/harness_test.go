// Package r_test runs the R code of this directory in real R.
package r_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is the profile's budget of 2 s with room for a busy machine. Without
// the budget the answers below take for ever.
const within = 6.0

// rendezvous stands in for the real one's loopback interface.
type rendezvous struct {
	*httptest.Server

	mu     sync.Mutex
	answer string
	plan   string // the answer for a plan, answer if it is empty
	status int
	asked  []string
	// sessions are those that have asked, by their names.
	sessions map[string]bool
	// announced are the announcements: METHOD INTENT PORT, and end with the connection of one.
	announced []string
	changed   chan struct{} // closed when announced changes, and made again
}

// sessionName is how a session names itself in a question.
var sessionName = regexp.MustCompile(`session=[0-9.-]+&`)

func serve(t *testing.T, answer string) *rendezvous {
	t.Helper()
	r := &rendezvous{answer: answer, status: http.StatusOK, changed: make(chan struct{}), sessions: make(map[string]bool)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if req.URL.Path == "/set" { // the R script plays kubectl scale
			r.answer = req.URL.Query().Get("n")
			return
		}
		if req.URL.Path == "/announced" {
			fmt.Fprintln(w, strings.Join(r.announced, "\n"))
			return
		}
		if req.URL.Path == "/v1/listeners" {
			r.announce(fmt.Sprint(req.Method, " ", req.URL.Query().Get("intent"), " ", req.URL.Query().Get("port")))
			control := http.NewResponseController(w)
			_ = control.EnableFullDuplex()
			fmt.Fprintln(w, "noted")
			_ = control.Flush()
			r.mu.Unlock()
			_, _ = req.Body.Read(make([]byte, 1))
			r.mu.Lock()
			r.announce("end")
			return
		}
		r.sessions[req.URL.Query().Get("session")] = true
		r.asked = append(r.asked, req.Method+" "+sessionName.ReplaceAllString(req.RequestURI, ""))
		answer := r.answer
		if r.plan != "" && req.URL.Query().Get("plan") == "true" {
			answer = r.plan
		}
		w.WriteHeader(r.status)
		fmt.Fprintln(w, answer)
	}))
	t.Cleanup(r.Close)
	return r
}

// announce notes what was announced. Called with the lock held.
func (r *rendezvous) announce(text string) {
	r.announced = append(r.announced, text)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *rendezvous) address() string { return r.Listener.Addr().String() }

func (r *rendezvous) questions() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// accept stands in for a broken one: handle has each connection.
func accept(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln := testkit.Listen(t)
	t.Cleanup(testkit.Accept(ln, func(conn net.Conn) { defer conn.Close(); handle(conn) }))
	return ln.Addr().String()
}

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", testkit.Port(t))
}

func profile(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("Rprofile.site")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func rscript(t *testing.T, api, code string, env ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	home := t.TempDir()
	script := filepath.Join(home, "test.R")
	if err := os.WriteFile(script, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "Rscript", "--no-environ", "--no-init-file", script)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C.UTF-8",
		"R_PROFILE=" + profile(t), "PSOCK_RENDEZVOUS_API=" + api}, env...)
	return cmd
}

// run runs code and returns the fields that it wrote with out(), and its
// standard error.
func run(t *testing.T, api, code string, env ...string) (fields []string, messages string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := rscript(t, api, `out <- function(...) cat(..., "\n", sep = " "); n <- function() length(parallelly::availableWorkers()); `+code, env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("R: %v\n%s%s", err, &stdout, &stderr)
	}
	return strings.Fields(stdout.String()), stderr.String()
}

func wantFields(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("R says %q, want %q", got, want)
	}
}

func wantQuestions(t *testing.T, r *rendezvous, want ...string) {
	t.Helper()
	if got := r.questions(); !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}
