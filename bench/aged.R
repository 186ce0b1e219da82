# plan() on workers that have waited: args are the number of workers and the port of
# the shell lines.
args <- as.integer(commandArgs(TRUE))
library(future)
o <- system.time(plan(cluster, workers = args[1], manual = TRUE, quiet = TRUE))[["elapsed"]]
plan(sequential)
cat(sprintf("ours            %.2f s\n", o))
t <- system.time(plan(cluster, workers = args[1], manual = TRUE, quiet = TRUE, port = args[2]))[["elapsed"]]
plan(sequential)
cat(sprintf("2021 shell line %.2f s, ratio %.4f\n", t, o / t))
