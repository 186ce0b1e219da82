# Leases: a port, and workers that are reserved for one cluster.

# made remembers the ports of this session's clusters. What a session has given up a
# moment ago the rendezvous may not have noticed yet: it is told.
made <- new.env(parent = emptyenv())
made$ports <- integer()

# open_ports lists the ports on which this session has nodes. It collects garbage,
# which closes the connections of clusters that were thrown away.
open_ports <- function() {
  connections <- suppressWarnings(showConnections())
  descriptions <- connections[connections[, "class"] == "sockconn", "description"]
  pattern <- "^<-.*:([0-9]+)$"
  unique(as.integer(sub(pattern, "\\1", grep(pattern, descriptions, value = TRUE))))
}

# ask_lease asks for a lease.
ask_lease <- function(n, group, share, label) {
  returned <- setdiff(made$ports, open_ports())
  made$ports <- setdiff(made$ports, returned)
  body <- list(workers = if (is.null(n)) 0L else as.integer(n), share = share)
  if (!is.null(group)) body$group <- group
  if (!is.null(label)) body$label <- label
  if (length(returned)) body$returned <- I(returned[seq_len(min(length(returned), 100L))])
  answer <- request("POST", "/v1/leases", body)
  if (answer$status == 404L) {
    fail("unreachable", "the rendezvous at ", address(), " is of a release without leases: use images of the same release")
  }
  if (!is.null(answer$error)) fail("refused", answer$error)
  answer$value
}

# give_back ends a lease; what comes of it nobody can use any more.
give_back <- function(lease) {
  tryCatch(request("DELETE", paste0("/v1/leases/", lease$id), limit = 1), error = identity)
  invisible()
}

# poll asks how the lease is, and waits for news for so many seconds at most, and late
# more for the answer. It returns NULL when the rendezvous does not know it: it was restarted.
poll <- function(lease, wait, late) {
  path <- sprintf("/v1/leases/%s?wait=%.3f&version=%d", lease$id, wait, as.integer(field(lease, "version", 0L)))
  answer <- request("GET", path, limit = wait + late)
  if (answer$status == 404L) return(NULL)
  if (answer$status == 503L) fail("unreachable", answer$error)
  if (!is.null(answer$error)) fail("refused", answer$error)
  answer$value
}

# await follows the lease until its workers are ready, and returns it as it is then.
# renew makes another in the place of one that a restarted rendezvous has forgotten.
await <- function(lease, renew, timeout, show) {
  began <- now()
  wait <- 0.5 # what is ready at once needs no progress
  lost <- NULL # since when nobody answers
  repeat {
    switch(lease$state,
      ready = return(lease),
      refused = fail("refused", lease$message),
      ended = fail("refused", "the lease has ended: ", lease$message))
    left <- timeout - (now() - began)
    if (left <= 0) fail("timeout", sprintf("timed out after %g s: %s", timeout, lease$message))
    news <- tryCatch({
      patience <- min(wait, left)
      known <- poll(lease, patience, late = min(10, left - patience + 1))
      if (is.null(known)) renew() else known
    }, rendezvous_unreachable = identity)
    if (inherits(news, "error")) {
      # A rendezvous that is restarted is back within seconds.
      if (is.null(lost)) lost <- now()
      if (now() - lost > 20) stop(news)
      Sys.sleep(0.5)
      next
    }
    lost <- NULL
    lease <- news
    if (lease$state == "waiting") show(lease$message, now() - began)
    wait <- 20
  }
}

now <- function() proc.time()[["elapsed"]]

# progress makes a function that shows how a lease is getting on: one line that
# changes where somebody looks, else a line now and then. It is shown by message(),
# so that suppressMessages() has its say.
progress <- function(quiet) {
  live <- interactive() && !quiet
  width <- 0L
  shown <- -Inf
  text <- ""
  list(
    show = function(message, elapsed) {
      if (quiet || (!live && (message == text || elapsed - shown < 10))) return(invisible())
      text <<- message
      shown <<- elapsed
      line <- sprintf("rendezvous: %s (%.0f s)", message, elapsed)
      if (!live) return(message(line))
      limit <- max(20L, getOption("width") - 1L)
      if (nchar(line) > limit) line <- paste0(substr(line, 1L, limit - 3L), "...")
      message("\r", formatC(line, width = -width), appendLF = FALSE)
      width <<- nchar(line)
    },
    done = function() {
      if (live && width > 0L) message("")
      width <<- 0L
    })
}
