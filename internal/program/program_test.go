package program_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/program"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command is a program with one flag for each thing that can go wrong.
type command struct {
	Fail    string              `help:"Fail while running."`
	Config  string              `help:"Find this wrong with the configuration."`
	Level   string              `help:"One of two." enum:"low,high" default:"low"`
	Number  int                 `help:"A number." env:"PROGRAM_TEST_NUMBER"`
	Wait    bool                `help:"Wait for the end of the context."`
	Signal  int                 `help:"Send this signal to the program itself."`
	Version program.VersionFlag `help:"Print the version."`
}

func (c *command) Run(ctx context.Context, out io.Writer) error {
	if c.Fail != "" {
		return errors.New(c.Fail)
	}
	if c.Config != "" {
		// Marked below what is returned: the mark is found within.
		return errors.Join(errors.New("first"), program.Configf("--config: %s", c.Config))
	}
	if c.Signal != 0 {
		if err := syscall.Kill(os.Getpid(), syscall.Signal(c.Signal)); err != nil {
			return err
		}
	}
	if c.Wait {
		<-ctx.Done()
		_, err := io.WriteString(out, "stopped\n")
		return err
	}
	_, err := io.WriteString(out, "ran "+c.Level+"\n")
	return err
}

// An environment has variables of everybody's: only those that a flag names are its own.
func TestForeignVariables(t *testing.T) {
	for _, name := range []string{"VERSION", "FAIL", "CONFIG", "SIGNAL"} {
		t.Setenv(name, "15")
	}
	var stdout, stderr bytes.Buffer
	if code := program.Run(context.Background(), &command{}, "program", "", nil, &stdout, &stderr); code != program.ExitOK || stdout.String() != "ran low\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, &stdout, &stderr)
	}
}

func TestExitCodesAndOutput(t *testing.T) {
	for _, tc := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // what is in it; "" for nothing at all
	}{
		{"success", nil, program.ExitOK, "ran low\n", ""},
		{"flag", []string{"--level=high"}, program.ExitOK, "ran high\n", ""},
		{"help", []string{"--help"}, program.ExitOK, "What it is for.", ""},
		{"version", []string{"--version"}, program.ExitOK, program.Version() + "\n", ""},
		{"failure", []string{"--fail=boom"}, program.ExitFailure, "", "name: boom\n"},
		{"failure of two lines", []string{"--fail=one\r\ntwo"}, program.ExitFailure, "", "name: one; two\n"},
		{"configuration", []string{"--config=no such file"}, program.ExitConfig, "", "name: first; --config: no such file\n"},
		{"unknown flag", []string{"--colour"}, program.ExitConfig, "", "name: unknown flag --colour"},
		{"unknown argument", []string{"what"}, program.ExitConfig, "", "name: unexpected argument what"},
		{"no value", []string{"--fail"}, program.ExitConfig, "", "but nothing follows; see 'name --help'\n"},
		{"no number", []string{"--number=many"}, program.ExitConfig, "", "--number: "},
		{"other value", []string{"--level=middle"}, program.ExitConfig, "", `--level must be one of "low","high" but got "middle"`},
		{"two lines of a value", []string{"--level=mid\ndle"}, program.ExitConfig, "", "name: --level must be one of"},
		{"SIGTERM", []string{"--wait", "--signal=15"}, program.ExitOK, "stopped\n", ""},
		{"SIGINT", []string{"--wait", "--signal=2"}, program.ExitOK, "stopped\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := run(&command{}, tc.args...)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			for _, stream := range []struct{ name, got, want string }{{"stdout", stdout, tc.stdout}, {"stderr", stderr, tc.stderr}} {
				if !strings.Contains(stream.got, stream.want) || stream.want == "" && stream.got != "" {
					t.Errorf("%s is %q, want %q", stream.name, stream.got, stream.want)
				}
			}
			if n := strings.Count(stderr, "\n"); n > 1 {
				t.Errorf("stderr has %d lines, want one: %q", n, stderr)
			}
		})
	}
}

func run(cli any, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = program.Run(context.Background(), cli, "name", "What it is for.", args, &out, &errs)
	return code, out.String(), errs.String()
}

// A variable of the environment that is wrong is an error like a flag's.
func TestEnvironment(t *testing.T) {
	t.Setenv("PROGRAM_TEST_NUMBER", "many")
	code, stdout, stderr := run(&command{})
	if code != program.ExitConfig || stdout != "" || !strings.Contains(stderr, "PROGRAM_TEST_NUMBER") && !strings.Contains(stderr, "--number") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// The caller's context ends the command, too.
func TestContextEndsTheCommand(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	var out bytes.Buffer
	if code := program.Run(ctx, &command{}, "name", "", []string{"--wait"}, &out, io.Discard); code != program.ExitOK || out.String() != "stopped\n" {
		t.Errorf("exit code %d, stdout %q", code, out.String())
	}
}

// fails ends as Run says.
type fails struct{ err error }

func (f *fails) Run() error { return f.err }

// A command that the program ran: its exit code is the program's.
func TestExitCode(t *testing.T) {
	err := fmt.Errorf("check: %w", program.ExitError{Code: 77, Err: errors.New("Rscript failed")})
	if code, _, stderr := run(&fails{err}); code != 77 || stderr != "name: check: Rscript failed\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

// A mistake in the program's own flags is no matter of the configuration.
func TestBrokenFlags(t *testing.T) {
	code, _, stderr := run(&struct {
		Bad func() `help:"A flag cannot be a function."`
	}{})
	if code != program.ExitFailure || !strings.HasPrefix(stderr, "name: ") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestListenErrorsNameTheFlag(t *testing.T) {
	listener, err := program.Listen("--admin", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	taken := listener.Addr().String()
	for _, address := range []string{taken, "127.0.0.1", "127.0.0.1:many", "203.0.113.1:0"} {
		_, err := program.Listen("--admin", address)
		var config program.ConfigError
		if !errors.As(err, &config) || !strings.Contains(err.Error(), "--admin: cannot listen on "+address) {
			t.Errorf("%s: %v", address, err)
		}
	}
	_, err = program.Listen("--admin", taken)
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a taken address: %v", err)
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("the cause is hidden: %v", err)
	}
}

// One object a line on stderr, with the level, the time and the fields alone.
func TestLogIsJSONOnStderr(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	stderr := os.Stderr
	os.Stderr = write
	log, err := program.Logging{LogLevel: "info", LogFormat: "json"}.New()
	os.Stderr = stderr
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not this")
	for range 300 { // R may write this many lines alike, none is dropped
		log.Info("line", zap.Duration("took", 1500*time.Millisecond))
	}
	write.Close()
	lines := json.NewDecoder(read)
	n := 0
	for ; lines.More(); n++ {
		var line map[string]any
		if err := lines.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if _, err := time.Parse(time.RFC3339Nano, line["time"].(string)); err != nil {
			t.Fatal(err)
		}
		if line["level"] != "info" || line["msg"] != "line" || line["took"] != "1.5s" || len(line) != 4 {
			t.Fatalf("line %d: %v", n, line)
		}
	}
	if n != 300 {
		t.Errorf("%d lines, want 300", n)
	}
}

func TestLogLevels(t *testing.T) {
	for level, want := range map[string]zapcore.Level{"debug": zap.DebugLevel, "info": zap.InfoLevel, "warn": zap.WarnLevel, "error": zap.ErrorLevel} {
		for _, format := range []string{"json", "console"} {
			log, err := program.Logging{LogLevel: level, LogFormat: format}.New()
			if err != nil {
				t.Fatal(err)
			}
			if got := zapcore.LevelOf(log.Core()); got != want {
				t.Errorf("%s: level %s", level, got)
			}
		}
	}
	_, err := program.Logging{LogLevel: "loud", LogFormat: "json"}.New()
	var config program.ConfigError
	if !errors.As(err, &config) || !strings.Contains(err.Error(), "loud") {
		t.Errorf("another level: %v", err)
	}
}

func TestReportReload(t *testing.T) {
	log, logs := testkit.Logger()
	report := program.ReportReload(log)
	report(nil)
	report(errors.New("no such file"))
	got := logs.All()
	if len(got) != 2 || got[0].Level != zap.InfoLevel || got[1].Level != zap.ErrorLevel || got[1].ContextMap()["error"] != "no such file" {
		t.Errorf("logged %+v", got)
	}
}
