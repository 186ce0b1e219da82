package psock

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// printedArgv returns the argv of the worker command that parallelly itself
// prints for the given arguments of makeClusterPSOCK(): R prints a shell line,
// a shell splits it, and a script in Rscript's place shows what it was given.
func printedArgv(t *testing.T, rscript, rArgs string) []string {
	t.Helper()
	expr := fmt.Sprintf("invisible(parallelly::makeClusterPSOCK(1L, dryrun = TRUE, port = 11562L, rscript = %q, %s))", rscript, rArgs)
	out, err := exec.Command("Rscript", "-e", expr).CombinedOutput()
	if err != nil {
		t.Fatalf("Rscript -e %q: %v\n%s", expr, err, out)
	}
	var line string
	for l := range strings.Lines(string(out)) {
		if strings.Contains(l, "MASTER=") {
			line = strings.TrimSpace(l)
		}
	}
	if line == "" {
		t.Fatalf("no worker command in what parallelly printed:\n%s", out)
	}
	argv, err := exec.Command("sh", "-c", line).Output()
	if err != nil {
		t.Fatalf("sh -c %q: %v", line, err)
	}
	args := strings.Split(strings.TrimSuffix(string(argv), "\x00"), "\x00")
	for i, arg := range args {
		// parallelly 1.47 writes its expressions without blanks.
		if value, found := strings.CutPrefix(arg, "options(socketOptions="); found {
			args[i] = "options(socketOptions = " + value
		}
		if arg == strings.ReplaceAll(workLoop, " ", "") {
			args[i] = workLoop
		}
	}
	return args
}

// oneExpression makes one expression of all that follow -e, see [Command.Args].
func oneExpression(argv []string) (args []string) {
	at := 0
	for i := 0; i < len(argv); i++ {
		switch {
		case argv[i] != "-e":
			args = append(args, argv[i])
		case at == 0:
			i++
			args = append(args, "-e", argv[i])
			at = len(args) - 1
		default:
			i++
			args[at] += "; " + argv[i]
		}
	}
	return args
}

// plainDecimals rewrites the two durations as plain decimals: R prints 100000
// as 1e+05, see [Command.Args].
func plainDecimals(t *testing.T, argv []string) []string {
	t.Helper()
	for i, arg := range argv {
		name, value, _ := strings.Cut(arg, "=")
		if name != "TIMEOUT" && name != "SETUPTIMEOUT" {
			continue
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("argument %q: %v", arg, err)
		}
		argv[i] = name + "=" + strconv.FormatFloat(f, 'f', -1, 64)
	}
	return argv
}

func TestCommandIsWhatParallellyPrints(t *testing.T) {
	// Named Rscript, because parallelly writes another line for other names.
	rscript := filepath.Join(t.TempDir(), "Rscript")
	if err := os.WriteFile(rscript, []byte("#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		rArgs string
		cmd   Command
	}{
		{"defaults, output inherited", `outfile = ""`, Command{}},
		{"outfile NULL", `outfile = NULL`, Command{}},
		{"outfile", `outfile = "/dev/null"`, Command{Outfile: "/dev/null"}},
		{"XDR and master", `outfile = "", useXDR = TRUE, master = "127.0.0.1"`, Command{XDR: true, Master: "127.0.0.1"}},
		{
			"timeouts", `outfile = "", timeout = 100000, connectTimeout = 2.5`,
			Command{Timeout: 100000 * time.Second, SetupTimeout: 2500 * time.Millisecond},
		},
		{"packages", `outfile = "", default_packages = c("stats", "methods")`, Command{DefaultPackages: []string{"stats", "methods"}}},
		{"no socket options", `outfile = "", socketOptions = "NULL"`, Command{SocketOptions: "NULL"}},
		{
			"startup with blanks and quotes", `outfile = "", rscript_startup = c("x <- 'a b'; y <- \"c$HOME\"", "z <- 1")`,
			Command{Startup: []string{`x <- 'a b'; y <- "c$HOME"`, "z <- 1"}},
		},
		{"manual", `outfile = "", manual = TRUE, quiet = FALSE`, Command{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cmd.Rscript, tc.cmd.Port = rscript, 11562
			want := oneExpression(plainDecimals(t, printedArgv(t, rscript, tc.rArgs)))
			if diff := cmp.Diff(want, tc.cmd.Args()); diff != "" {
				t.Errorf("argv differs from parallelly's (-parallelly +ours):\n%s", diff)
			}
		})
	}
}

func TestCommandDefaults(t *testing.T) {
	want := []string{
		"Rscript", "--default-packages=datasets,utils,grDevices,graphics,stats,methods",
		"-e", `options(socketOptions = "no-delay"); ` + workLoop,
		"MASTER=localhost", "PORT=7", "OUT=", "TIMEOUT=2592000", "XDR=FALSE", "SETUPTIMEOUT=120", "SETUPSTRATEGY=sequential",
	}
	if diff := cmp.Diff(want, Command{Port: 7}.Args()); diff != "" {
		t.Error(diff)
	}
	argv := Command{Preload: []string{"future", "data.table"}, Startup: []string{"1"}}.Args()
	if diff := cmp.Diff([]string{
		"-e", `options(socketOptions = "no-delay"); invisible({1}); ` +
			`invisible(suppressWarnings(suppressMessages({lapply(c("future", "data.table"), requireNamespace, quietly = TRUE); ` +
			`if (isNamespaceLoaded("parallelly")) tryCatch(parallelly::availableCores(), error = function(e) NULL)}))); ` + workLoop,
	}, argv[2:4]); diff != "" {
		t.Error(diff)
	}
	long := "c(" + strings.Repeat("1, ", 2000) + "1)"
	if argv := (Command{Startup: []string{long}}).Args(); argv[5] != "invisible({"+long+"})" || argv[7] != workLoop {
		t.Errorf("expressions that are too long for one: got %q", argv)
	}
	huge := Command{Timeout: 1 << 62}.Args()
	if got := huge[len(huge)-4]; got != "TIMEOUT=2147483647" {
		t.Errorf("a timeout beyond R's integers: got %s", got)
	}
}

// runCommand runs the command, accepts its connection, closes that, and returns what
// R wrote.
func runCommand(t *testing.T, c Command, env ...string) string {
	t.Helper()
	ln, port := listen(t)
	c.Master, c.Port = "127.0.0.1", port
	argv := c.Args()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C.UTF-8"), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close() // R ends its work loop on a closed socket.
	_ = cmd.Wait()
	if want := fmt.Sprintf("on 127.0.0.1:%d at", port); !strings.Contains(out.String(), want) {
		t.Errorf("output %q lacks %q", out.String(), want)
	}
	return out.String()
}

// TestCommandRuns runs the command without a shell in front: R must get each
// startup expression as it was written, and dial the master it was given.
func TestCommandRuns(t *testing.T) {
	out := runCommand(t, Command{Startup: []string{
		"cat('one\\ttwo', \"$HOME `x`\", 'back\\\\slash', sep = '|')\ncat('\\n')",
		"\n\tcat(\n\t\t'tab\t', 'é', '~+~', '~n~', '\\n', sep = '')\n",
	}})
	if want := "one\ttwo|$HOME `x`|back\\slash\ntab\té~+~~n~\n"; !strings.Contains(out, want) {
		t.Errorf("startup expression: output %q lacks %q", out, want)
	}
}

// TestCommandPreloads: a package is loaded after the startup expressions and not
// attached, and one that cannot be is not mentioned.
func TestCommandPreloads(t *testing.T) {
	library, source := t.TempDir(), filepath.Join(t.TempDir(), "broken")
	for name, text := range map[string]string{
		"DESCRIPTION": "Package: broken\nVersion: 1.0\nTitle: T\nDescription: D.\nLicense: GPL\nAuthor: A\nMaintainer: A <a@example.org>\n",
		"NAMESPACE":   "",
		"R/broken.R":  ".onLoad <- function(...) { message('a message'); warning('a warning'); stop('broken') }\n",
	} {
		file := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("R", "CMD", "INSTALL", "--no-test-load", "--library="+library, source).CombinedOutput(); err != nil {
		t.Fatalf("R CMD INSTALL: %v\n%s", err, out)
	}
	out := runCommand(t, Command{
		Preload: []string{"broken", "not.there", "splines"},
		Startup: []string{`.libPaths("` + library + `"); options(warn = 2)
			setHook(packageEvent("splines", "onLoad"), function(...) cat("loaded,", length(find.package("broken")), "is broken\n"))
			reg.finalizer(baseenv(), function(e) cat("left:", ls(globalenv(), all.names = TRUE), search()[grep("splines", search())], "\n"), onexit = TRUE)`},
	})
	if lines := strings.Split(out, "\n"); lines[0] != "loaded, 1 is broken" || !strings.HasPrefix(lines[1], "starting worker") {
		t.Errorf("output %q", out)
	}
	if !strings.Contains(out, "left: workRSOCK  \n") {
		t.Errorf("output %q: something else was left in the global environment, or attached", out)
	}
}
