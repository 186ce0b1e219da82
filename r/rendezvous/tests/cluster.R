# Clusters, with real workers and a stand-in for the rendezvous: what it is asked is
# noted, and what it answers comes from a list.
library(parallel)
asked <- list()
answers <- list()
stand_in <- function(method, path, body = NULL, limit = 10) {
  asked[[length(asked) + 1L]] <<- list(what = paste(method, path), body = body)
  if (method == "DELETE") return(list(status = 204L))
  stopifnot(length(answers) > 0)
  answer <- answers[[1L]]
  answers <<- answers[-1L]
  if (is.function(answer)) answer() else answer
}
utils::assignInNamespace("request", stand_in, "rendezvous")
what <- function() vapply(asked, function(a) a$what, "")
error_of <- function(expr) tryCatch({ expr; NULL }, error = identity)

free_port <- function() {
  for (port in sample(20000:29999, 100)) {
    s <- tryCatch(serverSocket(port), error = function(e) NULL, warning = function(w) NULL)
    if (!is.null(s)) {
      close(s)
      return(port)
    }
  }
  stop("no free port")
}

lease <- function(port, state, workers = 2L, message = "", ready = 0L, status = 200L) {
  list(status = status, value = list(id = "k3", port = port, workers = workers, group = "", share = FALSE,
    state = state, ready = ready, message = message, version = 1L))
}

# start starts workers that connect to the port, as the rendezvous would have it. Of two
# that do so at once one is reset, and tries again.
start <- function(n, port) {
  command <- sprintf("for i in 1 2 3 4 5 6 7 8 9; do %s --vanilla -e 'parallel:::.workRSOCK()' %s && break; done",
    shQuote(file.path(R.home("bin"), "Rscript")),
    sprintf("MASTER=localhost PORT=%d OUT=/dev/null SETUPTIMEOUT=60 TIMEOUT=60 XDR=FALSE", port))
  for (i in seq_len(n)) system(paste("{", command, "; } >/dev/null 2>&1"), wait = FALSE)
}

# A cluster of two, once they are ready; the state says that there is one group.
port <- free_port()
answers <- list(
  lease(port, "waiting", status = 201L, message = "0 of 2 workers are ready"),
  lease(port, "waiting", message = "1 of 2 workers are ready", ready = 1L),
  function() { start(2, port); lease(port, "ready", ready = 2L) },
  list(status = 200L, value = list(workers = list(list(group = "a"), list(group = "a")))))
cl <- rendezvous::cluster(2, label = "test")
stopifnot(
  identical(class(cl), c("SOCKcluster", "cluster")), length(cl) == 2L,
  identical(class(cl[[1]]), c("rendezvous_node", "SOCK0node")), cl[[2]]$rank == 2L,
  identical(parLapply(cl, 1:10, sqrt), lapply(1:10, sqrt)),
  length(unique(unlist(clusterCall(cl, Sys.getpid)))) == 2L,
  identical(what()[1:3], c("POST /v1/leases", "GET /v1/leases/k3?wait=0.500&version=1", "GET /v1/leases/k3?wait=20.000&version=1")),
  identical(asked[[1]]$body, list(workers = 2L, share = FALSE, label = "test")),
  !any(startsWith(what(), "DELETE")))

# A node is its connection: whether it lives, its end, and another in its place.
part <- function(name) get(name, asNamespace("rendezvous"))
alive <- function(node, there) {
  answers <<- list(there)
  part("node_alive")(node)
}
count <- function(n) list(status = 200L, value = n)
second <- cl[[2]]
stopifnot(isTRUE(alive(second, count(2L))), isTRUE(alive(second, count(1L))), identical(alive(second, count(0L)), FALSE),
  is.na(alive(second, list(status = 404L, error = "404 page not found"))), is.na(alive(second, function() part("fail")("unreachable", "no"))),
  identical(what()[length(asked)], paste0("GET /v1/nodes?port=", port)),
  is.na(suppressWarnings(part("kill_node")(second, 10L))), part("valid_connection")(second$con),
  isTRUE(part("kill_node")(second)), identical(part("kill_node")(second), FALSE), identical(alive(second, count(2L)), FALSE))
other <- rawConnection(raw(1)) # has the number that the connection had
stopifnot(identical(part("kill_node")(second), FALSE), identical(readBin(other, "raw"), raw(1)))
close(other)
answers <- list(function() { start(1, port); list(status = 200L, value = list(state = "connected")) })
cl[[2]] <- part("clone_node")(second)
stopifnot(cl[[2]]$rank == 2L, length(unique(unlist(clusterCall(cl, Sys.getpid)))) == 2L)
stopCluster(cl)

# The next request tells that this one's port was given up. It is refused.
asked <- list()
answers <- list(list(status = 409L, error = "there is no worker group \"gpu\"; there are: default"))
e <- error_of(rendezvous::cluster(group = "gpu", share = TRUE))
stopifnot(
  inherits(e, "rendezvous_refused"), inherits(e, "rendezvous_error"),
  conditionMessage(e) == "there is no worker group \"gpu\"; there are: default",
  identical(asked[[1]]$body$workers, 0L), asked[[1]]$body$share, asked[[1]]$body$group == "gpu",
  unclass(asked[[1]]$body$returned) == port)

# Refused while it waits, ended, and out of time: an error, and nothing is kept.
for (case in list(
  list(kind = "rendezvous_refused", text = "1 of 2 workers are ready; start more",
    answer = lease(port, "refused", message = "1 of 2 workers are ready; start more")),
  list(kind = "rendezvous_refused", text = "the lease has ended: nobody asked for it for 30s",
    answer = lease(port, "ended", message = "nobody asked for it for 30s")),
  list(kind = "rendezvous_timeout", text = "timed out after 0.001 s: 0 of 2",
    answer = function() { Sys.sleep(0.01); lease(port, "waiting", message = "0 of 2") }))) {
  asked <- list()
  answers <- list(lease(port, "waiting", status = 201L, message = "0 of 2"), case$answer)
  e <- error_of(rendezvous::cluster(2, quiet = TRUE, timeout = if (case$kind == "rendezvous_timeout") 0.001 else Inf))
  stopifnot(inherits(e, case$kind), startsWith(conditionMessage(e), case$text),
    identical(what()[length(asked)], "DELETE /v1/leases/k3"))
}

# A rendezvous that was restarted has forgotten the lease: another is asked for.
port <- free_port()
asked <- list()
answers <- list(
  lease(port, "waiting", workers = 1L, status = 201L),
  list(status = 404L, error = "there is no such lease"),
  function() { start(1, port); lease(port, "ready", workers = 1L, status = 201L) })
cl <- rendezvous::cluster(1, check = FALSE)
stopifnot(sum(what() == "POST /v1/leases") == 2L, unlist(clusterCall(cl, function() 42)) == 42)
stopCluster(cl)

# A port that another process has taken meanwhile: another lease.
port <- free_port()
taken <- free_port()
blocker <- serverSocket(taken)
asked <- list()
answers <- list(
  lease(taken, "ready", workers = 1L, status = 201L),
  function() { start(1, port); lease(port, "ready", workers = 1L, status = 201L) })
cl <- rendezvous::cluster(1, check = FALSE)
stopifnot(identical(what(), c("POST /v1/leases", "DELETE /v1/leases/k3", "POST /v1/leases")), unlist(clusterCall(cl, function() 42)) == 42)
stopCluster(cl)
close(blocker)

# More workers than R has connections for: as many as fit.
asked <- list()
answers <- list(lease(port, "waiting", workers = 5000L, status = 201L), list(status = 429L, error = "enough"))
e <- error_of(suppressMessages(rendezvous::cluster()))
stopifnot(conditionMessage(e) == "enough", identical(what(), c("POST /v1/leases", "DELETE /v1/leases/k3", "POST /v1/leases")),
  asked[[3]]$body$workers > 50, asked[[3]]$body$workers < 128)

# A worker with other versions: a warning.
port <- free_port()
answers <- list(function() { start(1, port); lease(port, "ready", workers = 1L, status = 201L) }, list(status = 200L, value = list()))
utils::assignInNamespace("r_version", function() "4.9.9", "rendezvous")
warned <- NULL
cl <- withCallingHandlers(rendezvous::cluster(1), warning = function(w) {
  warned <<- conditionMessage(w)
  invokeRestart("muffleWarning")
})
stopifnot(startsWith(warned, paste0("the workers differ from this session: R 4.9.9 here, ", getRversion(), " there")))
stopCluster(cl)

# parallel's own way to ask for a cluster, where R has one for other types.
if (exists("registerClusterType", asNamespace("parallel"))) {
  port <- free_port()
  answers <- list(function() { start(1, port); lease(port, "ready", workers = 1L, status = 201L) })
  cl <- makeCluster(1, type = "RENDEZVOUS", check = FALSE)
  stopifnot(unlist(clusterCall(cl, function() 42)) == 42)
  stopCluster(cl)
  # Loaded again, it does not warn.
  options(warn = 2)
  part(".onLoad")()
}
