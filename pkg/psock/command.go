package psock

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// The defaults of [Command], each the default of parallelly's makeNodePSOCK().
const (
	// DefaultRscript is looked up in PATH.
	DefaultRscript = "Rscript"
	// DefaultSocketOptions turns Nagle's algorithm off in R: a PSOCK message
	// is written in several pieces, and with Nagle the last one waits for the
	// acknowledgement of the one before, 40 ms on Linux.
	DefaultSocketOptions = "no-delay"
	// DefaultTimeout is how long R waits for the other end in the middle of a
	// read or write: 30 days.
	DefaultTimeout = 30 * 24 * time.Hour
	// DefaultSetupTimeout is how long R goes on dialing its master.
	DefaultSetupTimeout = 2 * time.Minute
)

// DefaultPackages are the packages a worker attaches at start. Rscript alone
// leaves out methods in R < 3.5; parallelly names all six so that it does not
// matter.
func DefaultPackages() []string {
	return []string{"datasets", "utils", "grDevices", "graphics", "stats", "methods"}
}

// workLoop is the R expression that dials the master and serves it. The
// function was called .slaveRSOCK before R 4.1.
const workLoop = "workRSOCK <- tryCatch(parallel:::.workRSOCK, error=function(e) parallel:::.slaveRSOCK); workRSOCK()"

// Command is the command line of one PSOCK worker, as parallelly writes it.
// The zero value of every field but Port stands for parallelly's own default.
type Command struct {
	// Rscript is the path of the Rscript program, or a name to look up in
	// PATH. Default [DefaultRscript].
	Rscript string
	// DefaultPackages are attached at start. Default [DefaultPackages].
	DefaultPackages []string
	// SocketOptions is the value of R's option socketOptions. Default
	// [DefaultSocketOptions]; "NULL" leaves the option alone, as in parallelly.
	SocketOptions string
	// Startup are R expressions to run before the worker dials, in order. One
	// that fails ends the worker.
	Startup []string
	// Preload are R packages whose namespaces the worker loads before it dials,
	// after Startup, which may say where they are. It attaches none of them. One
	// that is missing or cannot be loaded is left to whoever needs it.
	Preload []string
	// Master is the host name or address to dial. Default "localhost".
	Master string
	// Port is the TCP port to dial.
	Port int
	// Outfile is a file the worker appends its output to. Default "": the
	// worker writes to the stdout and stderr it inherits, which is what
	// parallelly's outfile = "" and outfile = NULL both come to (R's
	// sinkWorkerOutput() does nothing for an empty name).
	Outfile string
	// Timeout is what R takes for a dead master in the middle of a message;
	// R keeps whole seconds in 32 bits. Default [DefaultTimeout].
	Timeout time.Duration
	// SetupTimeout is how long R goes on dialing. Default [DefaultSetupTimeout].
	SetupTimeout time.Duration
	// XDR makes the worker write big-endian XDR instead of the machine's own
	// byte order. It reads either.
	XDR bool
}

// Args returns the command line, argv[0] being Rscript. It is for execve(2):
// nothing in it is quoted, and no shell must come between.
//
// It differs from the line that parallelly prints in a few things, none of which
// the worker can see. All expressions are one, which makes R start sooner.
// Durations are plain decimals ("100000" where R prints "1e+05"; R reads both).
// There is no pid file, which parallelly adds only when it starts a local worker
// itself, and no "#label=" comment, which it adds only when its option
// rscript_label is set. And a startup expression that R's front end would garble
// is written another way.
func (c Command) Args() []string {
	packages := c.DefaultPackages
	if len(packages) == 0 {
		packages = DefaultPackages()
	}
	args := []string{
		orDefault(c.Rscript, DefaultRscript),
		"--default-packages=" + strings.Join(packages, ","),
	}
	args = append(args, c.expressions()...)
	return append(args,
		"MASTER="+orDefault(c.Master, "localhost"),
		"PORT="+strconv.Itoa(c.Port),
		"OUT="+c.Outfile,
		"TIMEOUT="+decimalSeconds(orDefault(c.Timeout, DefaultTimeout)),
		"XDR="+strings.ToUpper(strconv.FormatBool(c.XDR)),
		"SETUPTIMEOUT="+decimalSeconds(orDefault(c.SetupTimeout, DefaultSetupTimeout)),
		// A worker with this strategy dials once with the full timeout and
		// sends nothing by itself; parallelly's "parallel" strategy is for
		// workers that it launches on its own host.
		"SETUPSTRATEGY=sequential",
	)
}

// maxExpression is up to where expressions are passed on as one: R leaves out, with a warning,
// what is longer than 10,000 bytes, where each blank and line break counts as three.
const maxExpression = 9000

// expressions returns the options -e with all that R is to evaluate. R's front end, a shell
// script, starts half a dozen processes for each -e: four of them take a fifth of R's start
// (R 4.2).
func (c Command) expressions() (args []string) {
	var all []string
	if options := orDefault(c.SocketOptions, DefaultSocketOptions); options != "NULL" {
		all = append(all, `options(socketOptions = "`+options+`")`)
	}
	for _, expr := range c.Startup {
		// invisible({...}): Rscript prints the value of every expression otherwise.
		all = append(all, "invisible({"+shellProof(expr)+"})")
	}
	if len(c.Preload) > 0 {
		all = append(all, preload(c.Preload))
	}
	all = append(all, workLoop)
	one := strings.Join(all, "; ")
	if len(one)+2*strings.Count(one, " ")+2*strings.Count(one, "\n") <= maxExpression {
		return []string{"-e", one}
	}
	for _, expr := range all {
		args = append(args, "-e", expr)
	}
	return args
}

// preload returns the R expression that loads packages' namespaces. It leaves no
// variable behind, and requireNamespace() turns an error into FALSE. Where that loads
// parallelly, as future does, the cores are counted: future has each new worker do so,
// which takes 40 ms the first time and 4 ms from then on (parallelly 1.47).
func preload(packages []string) string {
	return `invisible(suppressWarnings(suppressMessages({lapply(c("` + strings.Join(packages, `", "`) + `"), requireNamespace, quietly = TRUE); ` +
		`if (isNamespaceLoaded("parallelly")) tryCatch(parallelly::availableCores(), error = function(e) NULL)})))`
}

// shellProof returns an R expression that gets past R's front end. That is a
// shell script which writes the blanks in an expression as "~+~" and the line
// breaks as "~n~", to be undone by R, and then splits it at tabs. So an
// expression with any of these in it is given as the numbers of its characters.
func shellProof(expr string) string {
	if !strings.Contains(expr, "\t") && !strings.Contains(expr, "~+~") && !strings.Contains(expr, "~n~") {
		return expr
	}
	var b strings.Builder
	b.WriteString("eval(parse(text=intToUtf8(c(")
	for i, r := range []rune(expr) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(r)))
	}
	b.WriteString("))))")
	return b.String()
}

// orDefault returns v, or def when v is the zero value.
func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// decimalSeconds writes a duration as R's as.integer() and as.numeric() read it. R
// integers have 32 bits and a larger timeout would become NA, so it is cut to
// 68 years.
func decimalSeconds(d time.Duration) string {
	s := min(d.Seconds(), math.MaxInt32)
	return strconv.FormatFloat(s, 'f', -1, 64)
}
