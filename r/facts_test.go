package r_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// facts has, for each fact of the site profile, R code that is TRUE if the installed packages
// have it so. There, value is what the profile's list says, newer() whether future has backends, as since 1.40,
// and plan_of(...) what plan() is given to start.
var facts = map[string]string{
	"custom": `{ o <- options(structure(list(function() c("a", "b")), names = value)); w <- parallelly::availableWorkers(methods = "custom"); options(o); identical(w, c("a", "b")) }`,
	// Before 1.37 nothing asks for it.
	"limit": `packageVersion("parallelly") < "1.37" || mentioned(value, parallelly:::checkNumberOfLocalWorkers)`,
	// plan() calls it, and what it starts asks for workers within.
	"planner":   `is.function(get0(value, environment(future::plan)))`,
	"evaluator": `{ f <- get(fact$planner, environment(future::plan)); value %in% c(names(formals(f)), all.vars(body(f))) } && inherits(plan_of(), "cluster")`,
	"tweaked":   `inherits(plan_of(manual = TRUE), value) && !inherits(future::cluster, value)`,
	"strategy":  `identical(environment(plan_of(manual = TRUE))[[value]], future::cluster)`,
	"manual":    `value %in% names(formals(parallelly::makeNodePSOCK)) && isTRUE(formals(plan_of(manual = TRUE))[[value]]) && is.null(formals(plan_of())[[value]])`,
	// A future that asks for its workers again does so in these.
	"askers": `if (newer()) !exists(value[1], asNamespace("future"), inherits = FALSE) else
		all(vapply(value, exists, NA, asNamespace("future")), mentioned("availableWorkers", future::cluster))`,
	"methods": `{ o <- options(structure(list("custom", function() "c"), names = c(value, fact$custom))); w <- parallelly::availableWorkers(); options(o); identical(w, "c") }`,
	"slots":   `identical(parallelly::availableCores(methods = value, na.rm = FALSE, which = "all")[[value]], 3L)`,
	"auto_kill": `{ o <- options(structure(list(FALSE), names = value))
		r <- parallelly:::useWorkerPID("/bin/false", rank = 1L, rscript_sh = "sh"); options(o); identical(r, list()) }`,
	"node":  `inherits(local_node, value) && inherits(local_node$con, "connection")`,
	"local": `local_made()[[value]]`,
	"options": `if (packageVersion("parallelly") == "1.34.0") is.null(attr(local_node, value)) else
		isFALSE(attr(local_node, value)$manual) && isTRUE(attr(local_node, value)$localMachine)`,
	"valid": `isTRUE(getExportedValue("parallelly", value)(local_node$con))`,
	"room":  `is.numeric(getExportedValue("parallelly", value)())`,
	// Called with x and signal: the profile's part of the method names them.
	"kill":  `generic(value, c("x", "signal"))`,
	"alive": `generic(value, "x")`,
	// plan() skips a plan that equals the one before: not in future 1.31, which has no such method.
	"equal": `!newer() || all(c("target", "current") %in% names(formals(get(paste0(value, ".", fact$stack), asNamespace("future"))))) &&
		mentioned("all.equal(newStack, oldStack", get("plan_set", environment(future::plan)))`,
	"stack":   `!newer() || inherits(future::plan("list"), value)`,
	"backend": `!newer() || { future::plan(future::cluster, workers = local); inherits(attr(future::plan("list")[[1L]], value)[[fact$workers]], "cluster") }`,
	"tweaks":  `!newer() || identical(names(attr(plan_of(manual = TRUE), value)), fact$manual)`,
	"workers": `value %in% names(formals(plan_of(manual = TRUE)))`,
	// It has manual and other arguments of the nodes among "..."; its default maker of nodes is the function of that name.
	"maker":      `all(c("workers", "...") %in% names(formals(getExportedValue("parallelly", value)))) && mentioned(fact$node_maker, getExportedValue("parallelly", value))`,
	"node_maker": `mentioned(fact$launcher, getExportedValue("parallelly", value))`,
	"launcher":   `identical(names(formals(asNamespace("parallelly")[[value]]))[1L], "options") && mentioned("serverSocket", asNamespace("parallelly")[[value]]) + mentioned("socketConnection", asNamespace("parallelly")[[value]]) > 0`,
	"port":       `identical(local_made()[[value]], 11562L)`,
	"made":       `inherits(parallelly::makeNodePSOCK("localhost", port = 11562L, rank = 1L, action = "options"), value) && names(formals(parallelly::makeNodePSOCK))[1L] == "worker"`,
	"dry":        `isFALSE(local_made()[[value]])`,
	"launch":     `all(value %in% names(formals(parallelly::makeNodePSOCK)))`,
	"base_makers": `mentioned(value[1], parallel::makeCluster) && mentioned(value[2], parallel::makeCluster) &&
		identical(names(formals(parallel::makePSOCKcluster))[1:2], c("names", "...")) && "nnodes" %in% names(formals(parallel::makeForkCluster))`,
	"base_options": `{ home <- asNamespace("parallel"); given <- home[[value[1]]](home[[value[3]]], list(manual = TRUE, port = 11563L))
		isTRUE(home[[value[2]]]("manual", given)) && home[[value[2]]]("port", given) == 11563L && is.numeric(home[[value[2]]]("port", home[[value[3]]])) }`,
	// Of several files future sources the first that exists; the user's own are those that it has without the variable.
	"startup": `{ f <- tempfile(c("a", "b")); writeLines("options(psock.fact = 1)", f[2]); do.call(Sys.setenv, structure(list(paste(f, collapse = ":")), names = value))
		r <- get(fact$starter, asNamespace("future"))(); Sys.unsetenv(value); identical(r, f[2]) && identical(getOption("psock.fact"), 1) }`,
	"starter": `mentioned(value, get(".onAttach", asNamespace("future")))`,
	"scripts": `identical(eval(formals(get(fact$starter, asNamespace("future")))[[1L]]), value)`,
	// A callr child is started with what such a function has changed, in the file that R_PROFILE names.
	"add_hook": `identical(told_by_callr, "x")`,
	"profiles": `is.character(from_callr[[value]]) && length(from_callr[[value]]) == 2L && all(startsWith(from_callr[[value]], tempdir()))`,
	"env":      `identical(from_callr[[value]][["R_PROFILE"]], from_callr[[fact$profiles]][1L])`,
}

const factsInR = `
newer <- function() exists("ClusterFutureBackend", asNamespace("future"), inherits = FALSE)
plan_of <- function(...) { future::plan(future::cluster, ..., .init = FALSE); p <- future::plan("list")[[1L]]; future::plan(future::sequential); p }
mentioned <- function(text, f) any(grepl(text, c(deparse(formals(f)), deparse(body(f))), fixed = TRUE))
generic <- function(name, args) {
  own <- get(paste0(name, ".", fact$node), asNamespace("parallelly"))
  all(args %in% names(formals(own)), mentioned("UseMethod", getExportedValue("parallelly", name)))
}
local_made <- function() parallelly::makeNodePSOCK("localhost", port = 11562L, rank = 1L, action = "options")
local <- parallelly::makeClusterPSOCK(1); local_node <- local[[1L]]
from_callr <- NULL
tell_callr <- getExportedValue("callr", fact$add_hook)
tell_callr(fact = function(options) { from_callr <<- options; options$env[["PSOCK_FACT"]] <- "x"; options })
told_by_callr <- callr::r(function() Sys.getenv("PSOCK_FACT"))
for (name in names(checks)) {
  value <- fact[[name]]
  result <- tryCatch(isTRUE(eval(parse(text = checks[[name]]))), error = conditionMessage)
  if (!isTRUE(result)) cat(sprintf("fact %s (%s) is not so in future %s, parallelly %s, R %s: %s\n", name, toString(value),
    packageVersion("future"), packageVersion("parallelly"), getRversion(), result))
}
parallel::stopCluster(local)
`

// The profile relies on names of other packages. Those that are installed here have them.
func TestFacts(t *testing.T) {
	text, err := os.ReadFile(profile(t))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?s)  fact <- list\(\n.*?\n  \)\n`).FindString(string(text))
	var named []string
	for _, match := range regexp.MustCompile(`(?m)(?:^ {4}|, )([a-z_]+) = `).FindAllStringSubmatch(block, -1) {
		named = append(named, match[1])
	}
	slices.Sort(named)
	if want := slices.Sorted(maps.Keys(facts)); !slices.Equal(named, want) {
		t.Fatalf("the profile names the facts %q, this test knows %q", named, want)
	}
	var code strings.Builder
	code.WriteString(block + "checks <- list()\n")
	for name, check := range facts {
		code.WriteString("checks[[\"" + name + "\"]] <- r\"---(" + check + ")---\"\n")
	}
	cmd := rscript(t, "off", code.String()+factsInR, "NSLOTS=3")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "fact ") {
			t.Error(strings.TrimSpace(line))
		}
	}
}
