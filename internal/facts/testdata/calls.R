# Writes the calls and answers of the installed packages into a directory, and says what
# their code does.
out <- commandArgs(TRUE)[1L]
library(parallel)
suppressPackageStartupMessages(library(future))
cat(R.version.string, "future", format(packageVersion("future")), "parallelly", format(packageVersion("parallelly")), "\n")

send <- function(name, class, write) {
  con <- rawConnection(raw(), "wb")
  on.exit(close(con))
  write(structure(list(con = con), class = class))
  writeBin(rawConnectionValue(con), file.path(out, name))
}
call <- function(name, fun, ...) {
  args <- list(...)
  for (class in c("SOCK0node", "SOCKnode")) {
    send(paste(name, class, sep = "-"), class, function(node) parallel:::sendCall(node, fun, args))
  }
}
ours <- function(package, name) get(name, envir = asNamespace(package))

text <- "future:::requestNode() validation call"
call("reset", ours("future", "grmall"))
call("validation", identity, text)
call("introduction", get("get_session_info", environment(ours("parallelly", "add_cluster_session_info"))), pkgs = FALSE)
call("cores", eval, quote(parallelly::availableCores()), envir = .GlobalEnv)
call("load", requireNamespace, "future", quietly = TRUE)

package <- new.env()
sys.source("../../r/rendezvous/R/compare.R", package)
call("comparison", package$probe(), loadedNamespaces())
call("comparison-compiled", compiler::cmpfun(package$probe)(), loadedNamespaces())
call("collect", gc, verbose = FALSE, reset = FALSE)
call("attach", eval, quote(library(stats)), envir = .GlobalEnv)
call("attach-string", eval, quote(require("stats")), envir = .GlobalEnv)

call("attach-kept", eval, quote(loaded <- library(stats)), envir = .GlobalEnv)
call("attach-more", eval, quote({ library(stats); options(k = 42) }), envir = .GlobalEnv)
call("attach-from", eval, quote(library(stats, lib.loc = "/lib")), envir = .GlobalEnv)
call("attach-where", eval, quote(library(stats)), envir = new.env())
call("attach-named", eval, quote(library(stats, character.only = TRUE)), envir = .GlobalEnv)
call("attach-applied", lapply, list(a = quote(library(stats)), b = .GlobalEnv), eval)
call("user-comparison", function(packages, caller = "rendezvous:::compare()") options(k = 42))
call("user-collect", function(verbose = getOption("verbose"), full = TRUE) { options(k = 42); gc() })
call("cores-kept", eval, quote(n <- parallelly::availableCores()), envir = .GlobalEnv)
call("user-load", function(p) { assign("loaded", TRUE, globalenv()); requireNamespace(p, quietly = TRUE) }, "future")
call("load-passed", function(f) { assign("x", runif(1), globalenv()); f("stats") }, requireNamespace)
call("load-applied", lapply, c("stats", "utils"), requireNamespace)
call("validation-aside", identity, c(text, "and more"))
call("user-info", function() list(Sys.info(), Sys.getpid(), .libPaths(), .Platform$OS.type))

answer <- function(name, value) {
  send(name, "SOCK0node", function(node) parallel:::sendData(node, list(type = "VALUE", value = value, success = TRUE,
    time = proc.time(), tag = NULL)))
}
plan(sequential)
f <- future(42)
answer("result", result(f))
answer("other", structure(list(1), class = "Future"))

has <- function(fact, holds) if (isTRUE(holds)) cat("has ", fact, "\n", sep = "")
code <- function(package, name) {
  f <- tryCatch(ours(package, name), error = function(e) NULL)
  if (is.null(f)) "" else paste(deparse(f), collapse = "\n")
}
mentions <- function(package, name, what) grepl(what, code(package, name), fixed = TRUE)
if (mentions("future", "evalFuture", "FutureLaunchError")) {
  call("last", ours("future", "evalFuture"), list())
  answer("launch-classes", class(ours("future", "evalFuture")(NULL)))
  has("evalFuture() answers FutureLaunchError", TRUE)
  answer("launch-error", ours("future", "evalFuture")(NULL))
}
has("a future newer than 1.34", packageVersion("future") > "1.35")
has("grmall() answers future-grmall", identical(ours("future", "grmall")(new.env()), "future-grmall"))
has("a future is cleared by future-clearing-cluster-worker", mentions("future", "receiveMessageFromWorker", '"future-clearing-cluster-worker"'))
has("a future answers FutureResult", inherits(result(f), "FutureResult"))
has("clusterEvalQ() calls eval", mentions("parallel", "clusterEvalQ", "clusterCall(cl, eval, substitute(expr), env"))
has(paste("requestNode() validates by", text), mentions("future", "requestNode", paste0("truth <- \"", text)) &&
  mentions("future", "requestNode", "identity, truth"))
has(".makeCluster() counts cores", mentions("future", ".makeCluster", "parallelly::availableCores()"))
has(".makeCluster() loads future", mentions("future", ".makeCluster", "fun = requireNamespace, \"future\""))
