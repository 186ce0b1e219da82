// Package program is what both commands share of being a command: flags with
// environment variables, one clear line and exit code 2 for a configuration that
// cannot work, logs, signals.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/go-logr/logr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

// Exit codes.
const (
	ExitOK      = 0
	ExitFailure = 1 // something went wrong while running
	ExitConfig  = 2 // flags, files or addresses are wrong; nothing was started
)

// ConfigError marks an error of the configuration.
type ConfigError struct{ Err error }

func (e ConfigError) Error() string { return e.Err.Error() }
func (e ConfigError) Unwrap() error { return e.Err }

// ExitError ends the program with the code of a command that it ran.
type ExitError struct {
	Code int // not 0
	Err  error
}

func (e ExitError) Error() string { return e.Err.Error() }
func (e ExitError) Unwrap() error { return e.Err }

// Configf makes a ConfigError.
func Configf(format string, args ...any) error { return ConfigError{fmt.Errorf(format, args...)} }

// Listen opens the address that a flag names.
func Listen(flag, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, Configf("%s: cannot listen on %s, give a free HOST:PORT of this machine: %w", flag, address, err)
	}
	return listener, nil
}

// oneLine is err's text on one line: what a user gave as a value may have several,
// and so have joined errors.
func oneLine(err error) string {
	text := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	// The parser's words for a flag that is the last argument and wants a value.
	return strings.Replace(text, ` but got "EOL" (<EOL>)`, " but nothing follows", 1)
}

// Run parses args into cli, a pointer to a kong struct, and runs the chosen
// command's Run method with a context that SIGTERM and SIGINT end. It returns the
// exit code; an error has been written to stderr by then, on one line.
func Run(ctx context.Context, cli any, name, description string, args []string, stdout, stderr io.Writer) int {
	exited := -1
	parser, err := kong.New(cli, kong.Name(name), kong.Description(description),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Vars{"version": Version()})
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return ExitFailure
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help, --version
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s; see '%s --help'\n", name, oneLine(err), name)
		return ExitConfig
	}
	// client-go writes lines of its own; what matters in them comes as errors.
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	command.BindTo(ctx, (*context.Context)(nil))
	command.BindTo(stdout, (*io.Writer)(nil))
	err = command.Run()
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(stderr, "%s: %s\n", name, oneLine(err))
	var config ConfigError
	var exit ExitError
	switch {
	case errors.As(err, &config):
		return ExitConfig
	case errors.As(err, &exit):
		return exit.Code
	default:
		return ExitFailure
	}
}

// Logging is the flags of the log.
type Logging struct {
	LogLevel  string `help:"Least severe messages to log: debug, info, warn, error." enum:"debug,info,warn,error" default:"info" env:"PSOCK_LOG_LEVEL"`
	LogFormat string `help:"json, for machines, or console, for people." enum:"json,console" default:"json" env:"PSOCK_LOG_FORMAT"`
}

// New makes the log, on stderr.
func (l Logging) New() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(l.LogLevel)
	if err != nil {
		return nil, ConfigError{err}
	}
	config := zap.NewProductionConfig()
	config.Level = zap.NewAtomicLevelAt(level)
	config.Encoding = l.LogFormat
	config.EncoderConfig.TimeKey = "time"
	config.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	config.DisableCaller, config.DisableStacktrace = true, true
	// Sampling would drop lines that R wrote.
	config.Sampling = nil
	return config.Build()
}

// ReportReload logs what became of changed TLS files, for mtls.WithReport.
func ReportReload(log *zap.Logger) func(error) {
	return func(err error) {
		if err != nil {
			log.Error("TLS files changed and cannot be used, keeping the old ones", zap.Error(err))
			return
		}
		log.Info("TLS files changed and are in use")
	}
}

// Version is this program's version, as the Go module system knows it.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// VersionFlag is the --version flag.
type VersionFlag = kong.VersionFlag
