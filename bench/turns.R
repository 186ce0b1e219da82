# Futures on more nodes than there are workers, beside as many: seconds of 80 futures of
# 0.1 s each, plan() included, in turns.
suppressPackageStartupMessages(library(future))
options(parallelly.availableWorkers.methods = "custom") # NSLOTS as it is, not as parallelly saw it first
rounds <- as.integer(commandArgs(TRUE)[1])
seconds <- function(nodes) {
  Sys.setenv(NSLOTS = nodes)
  took <- system.time({
    plan(cluster, manual = TRUE, quiet = TRUE)
    stopifnot(nbrOfWorkers() == nodes)
    x <- future.apply::future_lapply(1:80, function(i) { Sys.sleep(0.1); i }, future.chunk.size = 1)
  })[["elapsed"]]
  stopifnot(identical(unlist(x), 1:80))
  plan(sequential)
  Sys.sleep(2) # every worker is a fresh one again
  took
}
many <- few <- numeric()
for (r in seq_len(rounds)) { many[r] <- seconds(40); few[r] <- seconds(4) }
cat(sprintf("40 nodes %.2f s, 4 nodes %.2f s, ratio %.2f (bar 1.1)\n", median(many), median(few), median(many) / median(few)))
