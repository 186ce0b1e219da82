# The median time from the death of a future's worker to the future's running again.
# With a rendezvous that lets no future run twice, that takes what a user does then:
# catch the FutureError, plan anew and start the future again.
#
#   Rscript bench/recovery.R ROUNDS
library(future)
args <- commandArgs(trailingOnly = TRUE)
rounds <- as.integer(args[1])
plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)
task <- function(mark) future({
  if (!file.exists(mark)) {
    cat(format(as.numeric(Sys.time()), digits = 20), file = mark)
    tools::pskill(Sys.getpid(), tools::SIGKILL)
    Sys.sleep(60)
  }
  as.numeric(Sys.time())
})
took <- vapply(seq_len(rounds), function(i) {
  Sys.sleep(1) # for a warm worker to stand by
  mark <- tempfile()
  again <- tryCatch(value(task(mark)), FutureError = function(e) {
    plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)
    value(task(mark))
  })
  again - as.numeric(readLines(mark, warn = FALSE))
}, 0)
cat(format(stats::median(took), digits = 3), "\n")
