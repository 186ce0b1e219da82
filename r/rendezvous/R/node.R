# What parallelly asks of a node: to be ended, whether it lives, to be made again. A node is
# its connection; the rendezvous ends the worker of one that is closed.

# register_nodes gives parallelly's generics their methods, those that it has.
register_nodes <- function() {
  ns <- asNamespace("parallelly")
  methods <- list(killNode = kill_node, isNodeAlive = node_alive, cloneNode = clone_node) # cloneNode: not in 1.34
  for (generic in names(methods)) {
    if (exists(generic, ns, inherits = FALSE)) registerS3method(generic, "rendezvous_node", methods[[generic]], envir = ns)
  }
}

# valid_connection: another connection may have the number of one that is closed.
valid_connection <- function(con) {
  as.integer(con) %in% getAllConnections() && identical(attr(con, "conn_id"), attr(getConnection(con), "conn_id"))
}

kill_node <- function(x, signal = 15L, ...) {
  if (!valid_connection(x$con)) return(FALSE)
  if (!signal %in% c(2, 9, 15)) {
    warning(sprintf("killNode(): signal %d cannot be sent to a worker elsewhere; SIGINT, SIGTERM and SIGKILL end it", as.integer(signal)),
      call. = FALSE)
    return(NA)
  }
  close(x$con)
  TRUE
}

# node_alive compares how many nodes this session has on the lease's port with how many the
# rendezvous has. If some are lost, one whose connection has nothing to read is not among them.
node_alive <- function(x, ...) {
  if (!valid_connection(x$con)) return(FALSE)
  answer <- tryCatch(request("GET", paste0("/v1/nodes?port=", x$lease$port), limit = 2), rendezvous_error = identity)
  if (is.null(answer$value)) return(NA)
  there <- as.numeric(answer$value)
  if (there == 0) FALSE
  else if (there >= nodes_on(x$lease$port) || !socketSelect(list(x$con), FALSE, 0)) TRUE
  else NA
}

# nodes_on counts this session's nodes on a port.
nodes_on <- function(port) {
  open <- vapply(getAllConnections(), function(con) {
    tryCatch(summary.connection(con)$description, error = function(e) "") # closed just now
  }, "")
  sum(grepl(paste0("^<-.*:", port, "$"), open))
}

# clone_node makes a node of the same cluster, or, when nothing else is left of the cluster and
# its lease is over, of a lease of its own for one worker like it.
clone_node <- function(x, ...) {
  lease <- x$lease
  again <- if (nodes_on(lease$port) > 0L && lives(lease)) node(lease, x$rank) else {
    cluster(1, group = if (nzchar(lease$group)) lease$group, share = isTRUE(lease$share), quiet = TRUE,
      label = lease$label, check = FALSE)[[1L]]
  }
  again$rank <- x$rank
  again
}

lives <- function(lease) {
  answer <- request("GET", paste0("/v1/leases/", lease$id))
  identical(answer$value$state, "connected")
}
