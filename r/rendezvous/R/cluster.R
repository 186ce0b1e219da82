# node accepts one worker of a lease. The rendezvous connects within milliseconds once it sees
# the listening socket: a worker that has not come after a minute does not come.
node <- function(lease, rank) {
  con <- socketConnection("localhost", port = lease$port, server = TRUE, blocking = TRUE, open = "a+b", timeout = accept_limit)
  socketTimeout(con, call_limit)
  # Not "localhost": future would look for the worker's process on this machine.
  host <- if (nzchar(lease$group)) lease$group else "rendezvous"
  structure(list(con = con, host = host, rank = rank, lease = lease), class = c("rendezvous_node", "SOCK0node"))
}

accept_limit <- 60L
call_limit <- 30L * 24L * 60L * 60L # parallelly's own

# connect makes the nodes of a lease that is ready. It returns what R says when it
# cannot listen at all: another process may have taken the port in this moment.
connect <- function(lease) {
  nodes <- list()
  complete <- FALSE
  on.exit(if (!complete) for (n in nodes) close(n$con))
  for (rank in seq_len(lease$workers)) {
    problem <- NULL
    began <- now()
    n <- withCallingHandlers(
      tryCatch(node(lease, rank), error = identity),
      warning = function(w) {
        problem <<- conditionMessage(w)
        invokeRestart("muffleWarning")
      })
    if (inherits(n, "error")) {
      why <- if (is.null(problem)) conditionMessage(n) else problem
      if (rank == 1L && now() - began < accept_limit / 2) return(why)
      fail("timeout", sprintf("worker %d of %d did not connect to port %d within %d s: %s",
        rank, lease$workers, lease$port, accept_limit, why))
    }
    nodes[[rank]] <- n
  }
  complete <- TRUE
  structure(nodes, class = c("SOCKcluster", "cluster"))
}

# most_connections is how many connections R can have.
most_connections <- function() {
  given <- grep("^--max-connections=[0-9]+$", commandArgs(), value = TRUE)
  if (length(given)) as.numeric(sub(".*=", "", given[length(given)])) else 128
}

# room is how many nodes R can still connect, one connection kept for whatever else
# a session does.
room <- function() max(0, most_connections() - nrow(showConnections(all = TRUE)) - 1)

cluster <- function(n = NULL, group = NULL, share = FALSE, timeout = Inf, quiet = FALSE,
                    label = NULL, check = getOption("rendezvous.check", TRUE)) {
  check_arguments(n, group, share, timeout, quiet, label, check)
  space <- room()
  if (space < if (is.null(n)) 1 else n) {
    what <- if (is.null(n)) "no worker fits" else sprintf("%.0f workers do not fit", n)
    fail("refused", sprintf("%s: of the %.0f connections that this R can have, %.0f are left, and each worker takes one; close others, %s",
      what, most_connections(), space, more_connections()))
  }
  ask <- function() {
    lease <- ask_lease(n, group, share, label)
    if (lease$workers <= space) return(lease)
    give_back(lease)
    message(sprintf("rendezvous: there are %.0f workers, but only %.0f fit: R has %.0f connections; close others, %s",
      lease$workers, space, most_connections(), more_connections()))
    ask_lease(space, group, share, label)
  }
  line <- progress(quiet)
  lease <- ask()
  cl <- NULL
  on.exit({
    line$done()
    if (is.null(cl)) give_back(lease)
  })
  for (attempt in 1:3) {
    lease <- await(lease, renew = function() lease <<- ask(), timeout, line$show)
    made$ports <- c(made$ports, lease$port)
    nodes <- connect(lease)
    if (!is.character(nodes)) break
    if (attempt == 3L) fail("refused", "cannot listen on port ", lease$port, ", nor on others before it: ", nodes)
    give_back(lease)
    lease <- ask()
  }
  if (check) {
    ok <- FALSE
    on.exit(if (!ok) for (node in nodes) close(node$con), add = TRUE, after = FALSE)
    compare(nodes, lease)
    ok <- TRUE
  }
  cl <- nodes
  cl
}

more_connections <- function() {
  if (getRversion() >= "4.4.0") "or start R with --max-connections=N" else
    "or use R 4.4 or later, which can be started with --max-connections=N"
}

check_arguments <- function(n, group, share, timeout, quiet, label, check) {
  flag <- function(x) is.logical(x) && length(x) == 1L && !is.na(x)
  text <- function(x) is.null(x) || (is.character(x) && length(x) == 1L && !is.na(x))
  wrong <- function(...) stop(..., call. = FALSE)
  if (!is.null(n) && !(is.numeric(n) && length(n) == 1L && !is.na(n) && n >= 1 && n == trunc(n))) {
    wrong("n: give a whole number of workers, 1 or more, or NULL for as many as there are")
  }
  if (!text(group)) wrong("group: give the name of a worker group, or NULL for any")
  if (!text(label)) wrong("label: give one text")
  if (!(is.numeric(timeout) && length(timeout) == 1L && !is.na(timeout) && timeout > 0)) wrong("timeout: give a number of seconds, or Inf")
  for (name in c("share", "quiet", "check")) {
    if (!flag(get(name))) wrong(name, ": give TRUE or FALSE")
  }
}
