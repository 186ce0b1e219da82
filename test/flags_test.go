package test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// flagCase is a configuration that cannot work.
type flagCase struct {
	name  string
	args  []string
	env   []string
	wants []string // what the one line has to have: the flag, the value, what it takes
}

// Unknown, contradictory and impossible configurations of both commands: one clear
// line on stderr, exit code 2, nothing started.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	dir := badFiles(t)
	taken := testkit.Listen(t).Addr().String()
	at := func(name string) string { return filepath.Join(dir, name) }
	for command, cases := range map[string][]flagCase{
		"rendezvous":   append(rendezvousFlags(), append(rendezvousFiles(at), rendezvousAddresses(taken)...)...),
		"worker-agent": append(agentFlags(), append(agentFiles(at), agentAddresses(taken)...)...),
	} {
		for _, tc := range cases {
			t.Run(command+"/"+tc.name, func(t *testing.T) { tc.run(t, command) })
		}
	}
}

// run runs the command on addresses of its own, so that what is wrong is what the
// case names.
func (tc flagCase) run(t *testing.T, command string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	started := filepath.Join(t.TempDir(), "started")
	env := []string{
		"RENDEZVOUS_AGENTS_ADDRESS=127.0.0.1:0", "RENDEZVOUS_API_ADDRESS=127.0.0.1:0", "RENDEZVOUS_ADMIN_ADDRESS=127.0.0.1:0",
		"WORKER_AGENT_ADMIN_ADDRESS=127.0.0.1:0", "WORKER_AGENT_RSCRIPT=" + script(t, "touch "+started+"; exit 1"),
	}
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join(bin, command), tc.args...)
	cmd.Env = append(os.Environ(), append(env, tc.env...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if stdout.Len() > 0 {
		t.Errorf("on stdout: %q", stdout.String())
	}
	line, ended := strings.CutSuffix(stderr.String(), "\n")
	if !ended || line == "" || strings.ContainsAny(line, "\n\r") || !strings.HasPrefix(line, command+": ") {
		t.Errorf("want exactly one line that begins with %q, got %q", command+": ", stderr.String())
	}
	for _, want := range tc.wants {
		if !strings.Contains(line, want) {
			t.Errorf("the line lacks %q: %s", want, line)
		}
	}
	if _, err := os.Stat(started); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("R was started: %v", err)
	}
}

func rendezvousFlags() []flagCase {
	return []flagCase{
		{"unknown flag", []string{"--frobnicate"}, nil, []string{"unknown flag --frobnicate", "--help"}},
		{"unknown flag with a value", []string{"--frobnicate=3"}, nil, []string{"unknown flag --frobnicate"}},
		{"unknown command", []string{"frobnicate"}, nil, []string{"unexpected argument frobnicate", "--help"}},
		{"argument of two lines", []string{"one\ntwo"}, nil, []string{"unexpected argument one", "two"}},
		{"flag without its value", []string{"--agents-address"}, nil, []string{"--agents-address: expected string value", "nothing follows"}},
		{"flag of another command", []string{"--ports", "1-2", "status"}, nil, []string{"--ports", `"status"`}},
		{"ports, one number", []string{"--ports", "12"}, nil, []string{"--ports", `"12"`, "FIRST-LAST"}},
		{"ports, backwards", []string{"--ports", "12-5"}, nil, []string{"--ports", `"12-5"`, "FIRST <= LAST"}},
		{"ports, too large", []string{"--ports", "1-70000"}, nil, []string{"--ports", `"1-70000"`, "65535"}},
		{"timeout, no duration", []string{"--demand-timeout", "soon"}, nil, []string{"--demand-timeout", `"soon"`, "duration"}},
		{"timeout, no unit, in the environment", nil, []string{"RENDEZVOUS_DEMAND_TIMEOUT=60"}, []string{"--demand-timeout", `RENDEZVOUS_DEMAND_TIMEOUT="60"`, "missing unit"}},
		{"timeout, too short", []string{"--demand-timeout", "10ms"}, nil, []string{"--demand-timeout", "10ms", "1s or more"}},
		{"workers, none", []string{"--max-workers", "0"}, nil, []string{"--max-workers", "0", "1 or more"}},
		{"workers, no number", nil, []string{"RENDEZVOUS_MAX_WORKERS=lots"}, []string{"--max-workers", "RENDEZVOUS_MAX_WORKERS", `"lots"`, "int"}},
		{"user id, a name", []string{"--session-uids", "root"}, nil, []string{"--session-uids", `"root"`, "int"}},
		{"user id, negative", []string{"--session-uids=1000,-4"}, nil, []string{"--session-uids", "-4", "from 0 to 4294967294"}},
		{"log level", []string{"--log-level", "loud"}, nil, []string{"--log-level", `"loud"`, `"debug","info","warn","error"`}},
		{"log format", nil, []string{"PSOCK_LOG_FORMAT=xml"}, []string{"--log-format", `"xml"`, `"json","console"`}},
		{"certs without a directory", []string{"certs"}, nil, []string{"--dir=DIR"}},
		{"certs that were never valid", []string{"certs", "--dir", "/none", "--validity=-5s"}, nil, []string{"--validity", "-5s", "8760h"}},
		{"no name for agents", []string{"--worker-name="}, nil, []string{"--worker-name", "DNS name"}},
		{"agent check, unknown", nil, []string{"RENDEZVOUS_AGENT_CHECK=maybe"}, []string{"--agent-check", `"maybe"`, `"address","name","none"`}},
		{"worker pods, no selector", []string{"--worker-pods", "=="}, nil, []string{"--worker-pods", `"=="`, "app=future,component=worker"}},
		{"worker pods, in the environment", nil, []string{"RENDEZVOUS_WORKER_PODS=a b"}, []string{"--worker-pods", `"a b"`, "no label selector"}},
		{"worker pods, no cluster", []string{"--worker-pods", "component=worker"}, []string{"KUBERNETES_SERVICE_HOST="}, []string{"--worker-pods", "not in a Kubernetes pod"}},
		{"scale without its pods", []string{"--scale", "deployment=w,max=2"}, nil, []string{"--scale", "it needs --worker-pods"}},
		{"scale, no maximum", []string{"--worker-pods", "a=b", "--scale", "deployment=w"}, nil, []string{"--scale", `"deployment=w"`, "max is missing", "deployment=NAME,max=PODS"}},
		{"scale, in the environment", []string{"--worker-pods", "a=b"}, []string{"RENDEZVOUS_SCALE=deployment=w,max=2;deployment=v,max=0,group=b"}, []string{"--scale", `"deployment=v,max=0,group=b"`, `max="0"`, "from 1 to"}},
		{"scale, twice the same", []string{"--worker-pods", "a=b", "--scale", "deployment=w,max=2", "--scale", "deployment=v,max=2"}, nil, []string{"--scale", `"deployment=v,max=2"`, `"default"`, "give each once"}},
		{"scale, too many workers", []string{"--worker-pods", "a=b", "--scale", "deployment=w,max=20,slots=10", "--max-workers", "100"}, nil, []string{"--scale", "200 workers are more than --max-workers 100"}},
		{"scale, no cluster", []string{"--worker-pods", "component=worker", "--scale", "deployment=w,max=2"}, []string{"KUBERNETES_SERVICE_HOST="}, []string{"not in a Kubernetes pod"}},
		{"check without a pod", []string{"check", "--container", "scheduler", "--", "true"}, nil, []string{"--pod-selector"}},
		{"check without a command", []string{"check", "--pod-selector", "a=b", "--container", "scheduler"}, nil, []string{"<command>"}},
		{"check of no selector", []string{"check", "--pod-selector", "==", "--container", "scheduler", "--", "true"}, nil, []string{"--pod-selector", `"=="`}},
		{"check, no time", []string{"check", "--pod-selector", "a=b", "--container", "scheduler", "--timeout", "0s", "--", "true"}, nil, []string{"--timeout", "0s", "2m"}},
		{"check, no cluster", []string{"check", "--pod-selector", "a=b", "--container", "scheduler", "--", "Rscript", "-e", "1"}, []string{"KUBERNETES_SERVICE_HOST="}, []string{"not in a Kubernetes pod"}},
		{"status of a bad address", []string{"status", "--api-address", "nonsense"}, nil, []string{"--api-address", `"nonsense"`, "HOST:PORT"}},
	}
}

func agentFlags() []flagCase {
	return []flagCase{
		{"unknown flag", []string{"--frobnicate"}, nil, []string{"unknown flag --frobnicate", "--help"}},
		{"argument", []string{"stray"}, nil, []string{"unexpected argument stray", "--help"}},
		{"flag without its value", []string{"--workers"}, nil, []string{"--workers: expected int value", "nothing follows"}},
		{"workers, none", []string{"--workers", "0"}, nil, []string{"--workers", "0", "1 to 1024"}},
		{"workers, too many", []string{"--workers", "5000"}, nil, []string{"--workers", "5000", "1 to 1024"}},
		{"workers, no number", nil, []string{"WORKER_AGENT_WORKERS=lots"}, []string{"--workers", `WORKER_AGENT_WORKERS="lots"`, "int"}},
		{"start timeout, no unit", []string{"--start-timeout", "10"}, nil, []string{"--start-timeout", `"10"`, "missing unit"}},
		{"stop grace, negative", []string{"--stop-grace=-1s"}, nil, []string{"--stop-grace", "-1s", "positive duration such as"}},
		{"drain budget, none", []string{"--drain-budget", "0s"}, nil, []string{"--drain-budget", "0s", "positive duration such as"}},
		{"package, no name", nil, []string{"EXTRA_R_PACKAGES=stats data_table"}, []string{"--r-packages", `"data_table"`, "letters, digits and dots"}},
		{"package to load, no name", []string{"--preload", "future,data.table"}, nil, []string{"--preload", `"future,data.table"`, "letters, digits and dots"}},
		{"log level", []string{"--log-level", "loud"}, nil, []string{"--log-level", `"loud"`, `"debug","info","warn","error"`}},
	}
}

func rendezvousFiles(at func(string) string) []flagCase {
	tls := func(name, dir string, wants ...string) flagCase {
		return flagCase{name, []string{"--tls-dir", dir}, nil, append([]string{"--tls-dir", dir}, wants...)}
	}
	return []flagCase{
		tls("no directory", at("none"), "ca.crt is missing", "rendezvous certs"),
		tls("certificate is no PEM", at("junk"), "tls.crt holds no PEM certificate", "BEGIN CERTIFICATE"),
		tls("unreadable key", at("unreadable"), "tls.key", "is a directory"),
		tls("key of another certificate", at("mixed"), "tls.key is not the key of", "give both of one issue"),
		tls("certificate of a worker", at("certs/worker"), "tls.crt", "serverAuth"),
		tls("certificate of another CA", at("foreign"), "tls.crt is not signed by the CA", "files of one CA"),
		{"TLS and none", []string{"--tls-dir", at("certs/rendezvous"), "--plaintext"}, nil, []string{"--tls-dir and --plaintext contradict each other"}},
		{"certs where a file is", []string{"certs", "--dir", at("certs/ca.crt")}, nil, []string{"--dir", at("certs/ca.crt"), "not a directory"}},
	}
}

func agentFiles(at func(string) string) []flagCase {
	tls := func(name, dir string, wants ...string) flagCase {
		return flagCase{name, []string{"--tls-dir", dir}, nil, append([]string{"--tls-dir", dir}, wants...)}
	}
	return []flagCase{
		tls("no directory", at("none"), "ca.crt is missing", "rendezvous certs"),
		tls("certificate is no PEM", at("junk"), "tls.crt holds no PEM certificate", "BEGIN CERTIFICATE"),
		tls("unreadable key", at("unreadable"), "tls.key", "is a directory"),
		tls("certificate of the rendezvous", at("certs/rendezvous"), "tls.crt", "clientAuth"),
		{"TLS and none", []string{"--tls-dir", at("certs/worker"), "--plaintext"}, nil, []string{"--tls-dir and --plaintext contradict each other"}},
		{"working directory, none", []string{"--dir", at("none")}, nil, []string{"--dir", at("none"), "directory that is there"}},
		{"working directory, a file", []string{"--dir", at("certs/ca.crt")}, nil, []string{"--dir", at("certs/ca.crt"), "no directory"}},
	}
}

func rendezvousAddresses(taken string) []flagCase {
	var cases []flagCase
	for _, flag := range []string{"--agents-address", "--api-address", "--admin-address"} {
		cases = append(cases,
			flagCase{flag + " in use", []string{flag, taken}, nil, []string{flag, taken, "address already in use", "free HOST:PORT"}},
			flagCase{flag + " without a port", []string{flag, "127.0.0.1"}, nil, []string{flag, `"127.0.0.1"`, "HOST:PORT"}},
			flagCase{flag + " with a bad port", []string{flag, "127.0.0.1:99999"}, nil, []string{flag, `"127.0.0.1:99999"`, "65535"}},
			flagCase{flag + " not on loopback", []string{flag, "0.0.0.0:0"}, nil, []string{flag, "0.0.0.0:0", "not on loopback"}},
		)
	}
	// The address of another machine (TEST-NET-3, RFC 5737).
	return append(cases,
		flagCase{"foreign address", []string{"--agents-address", "203.0.113.1:0", "--plaintext"}, nil, []string{"--agents-address", "203.0.113.1:0", "cannot assign requested address"}},
		flagCase{"port of sessions", []string{"--ports", "1-65535"}, nil, []string{"--agents-address", "--ports 1-65535", "give another"}},
		flagCase{"TLS missing", []string{"--agents-address", "0.0.0.0:0"}, nil, []string{"--tls-dir", "--plaintext"}},
		flagCase{"admin in plain text", []string{"--admin-address", ":0"}, nil, []string{"--admin-plaintext"}},
	)
}

func agentAddresses(taken string) []flagCase {
	cases := []flagCase{
		{"admin in use", []string{"--admin-address", taken}, nil, []string{"--admin-address", taken, "address already in use", "free HOST:PORT"}},
		{"admin with a bad port", []string{"--admin-address", "127.0.0.1:http"}, nil, []string{"--admin-address", `"127.0.0.1:http"`, "65535"}},
		{"admin not on loopback", []string{"--admin-address", ":0"}, nil, []string{"--admin-address", ":0", "--admin-plaintext"}},
		{"no TLS", []string{"--rendezvous", "dns:future-rendezvous:7460"}, nil, []string{"--rendezvous", "dns:future-rendezvous:7460", "not on loopback", "--tls-dir", "--plaintext"}},
		{"no TLS for one of two", []string{"--rendezvous", "127.0.0.1:7460,10.0.0.1:7460"}, nil, []string{"--rendezvous", "10.0.0.1:7460", "not on loopback"}},
	}
	for _, bad := range []string{"nonsense", "127.0.0.1", "127.0.0.1:99999", "name:7460", "dns:name", "dns:name:http", "srv:", "127.0.0.1:1,", "one\ntwo"} {
		value := strings.ReplaceAll(bad, "\n", `\n`)
		cases = append(cases, flagCase{"rendezvous " + value, []string{"--rendezvous", bad}, nil, []string{"--rendezvous", `"` + value + `"`, "write "}})
	}
	return cases
}

// badFiles makes certificates and what can be wrong with them.
func badFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run(filepath.Join(bin, "rendezvous"), "certs", "--dir", "certs")
	run(filepath.Join(bin, "rendezvous"), "certs", "--dir", "others")
	run("sh", "-ec", `
for d in junk unreadable mixed foreign; do cp -r certs/rendezvous $d; done
echo no certificate > junk/tls.crt
rm unreadable/tls.key; mkdir unreadable/tls.key
cp certs/worker/tls.key mixed/
cp others/ca.crt foreign/`)
	return dir
}

// script makes an executable shell script.
func script(t *testing.T, code string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "Rscript")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+code+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// What the flags' help says works: two addresses, and the old name of a fixed list.
func TestRendezvousLists(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"127.0.0.1:2,127.0.0.1:1", "static:localhost:2,127.0.0.1:1", "[::1]:1"} {
		p := launch(t, nil, filepath.Join(bin, "worker-agent"), "--rendezvous", list, "--admin-address", "127.0.0.1:0", "--rscript", "/none/Rscript")
		if got := p.field("rendezvous found", "addresses"); strings.Count(got, ":") == 0 {
			t.Errorf("--rendezvous %s: addresses %s", list, got)
		}
	}
}
