# Ours beside theirs, alternating, so that a noisy machine hurts both alike.
suppressPackageStartupMessages({ library(parallel); library(parallelly); library(future) })
rounds <- as.integer(commandArgs(TRUE)[1])
elapsed <- function(expr) system.time(expr)[["elapsed"]]
# Fine-grained: system.time() has a resolution of a millisecond.
each <- function(n, f) { t0 <- Sys.time(); for (i in seq_len(n)) f(); as.numeric(Sys.time() - t0, units = "secs") / n }
state <- function() {
  address <- strsplit(Sys.getenv("PSOCK_RENDEZVOUS_API", "127.0.0.1:7461"), ":")[[1]]
  con <- socketConnection(address[1], as.integer(address[2]), blocking = TRUE, open = "r+", timeout = 5)
  on.exit(close(con))
  writeLines("GET /v1/state HTTP/1.0\r\n\r", con)
  paste(readLines(con, warn = FALSE), collapse = "\n")
}
warm <- function() length(gregexpr('"state":"warm"', state(), fixed = TRUE)[[1]])
full <- function() while (warm() < 32) Sys.sleep(0.05)
ours <- function(n) makeClusterPSOCK(n, manual = TRUE, quiet = TRUE)
theirs <- function(n) makeClusterPSOCK(n)
rows <- list()
row <- function(what, unit, o, t, bar) {
  rows[[length(rows) + 1]] <<- data.frame(what, ours = sprintf("%.3g %s", median(o), unit),
    theirs = sprintf("%.3g %s", median(t), unit), ratio = sprintf("%.2f", median(o) / median(t)), bar)
}
for (n in c(8, 32)) {
  o <- t <- numeric()
  for (r in seq_len(rounds)) {
    full(); o[r] <- elapsed(cl <- ours(n)); stopCluster(cl)
    full(); t[r] <- elapsed(cl <- theirs(n)); stopCluster(cl)
  }
  row(sprintf("start of %d workers", n), "s", o, t, if (n == 8) "<= 0.25" else "<= 0.125")
}
# A plan's workers have future loaded when it is there.
Sys.setenv(NSLOTS = 8)
o <- t <- numeric()
for (r in seq_len(rounds)) {
  full(); o[r] <- elapsed(plan(cluster, manual = TRUE, quiet = TRUE)); plan(sequential)
  full(); t[r] <- elapsed(plan(cluster, workers = 8)); plan(sequential)
}
Sys.unsetenv("NSLOTS")
row("plan() of 8 workers", "s", o, t, "<= 0.1")
full()
a <- ours(1); b <- theirs(1)
# Turns are short, so that both meet the same noise, and begin with a collection of
# garbage: else it falls on the same one of the two each time, a fifth of 100 MB's time.
compare <- function(what, unit, scale, turns, n, f, bar) {
  o <- t <- numeric()
  f(a); f(b)
  for (r in seq_len(turns * rounds)) {
    gc(); o[r] <- each(n, function() f(a)) * scale
    gc(); t[r] <- each(n, function() f(b)) * scale
  }
  row(what, unit, o, t, bar)
}
compare("clusterCall round trip", "ms", 1e3, 20, 100, function(cl) clusterCall(cl, identity, 1), "<= 2.0")
x <- runif(100e6 / 8)
compare("100 MB to a worker", "s", 1, 4, 1, function(cl) clusterCall(cl, function(x) NULL, x), "<= 1.35")
invisible(clusterCall(a, function() { x <<- runif(100e6 / 8); NULL })); invisible(clusterCall(b, function() { x <<- runif(100e6 / 8); NULL }))
compare("100 MB back", "s", 1, 4, 1, function(cl) clusterCall(cl, function() get("x", envir = globalenv())), "<= 1.2")
o <- t <- numeric()
for (r in seq_len(2 * rounds)) {
  plan(cluster, workers = a); o[r] <- each(20, function() value(future(1))) * 1e3
  plan(cluster, workers = b); t[r] <- each(20, function() value(future(1))) * 1e3
}
row("value(future(1))", "ms", o, t, "<= 1.10")
plan(sequential)
stopCluster(a); stopCluster(b)
print(do.call(rbind, rows), row.names = FALSE, right = FALSE)
