# workers describes the pool, a row for each worker, and one for each pod whose agent
# is missing.
workers <- function() {
  state <- get_json("/v1/state")
  slots <- field(state, "workers", list())
  pods <- field(state, "pods", list())
  calls <- call_ages(field(state, "clusters", list()), Sys.time())
  column <- function(name, default) vapply(slots, field, default, name, default)
  missing <- function(value) rep(value, length(pods))
  pod <- column("agent", NA_character_)
  slot <- vapply(slots, function(s) as.integer(field(s, "slot", 0L)), 0L)
  data.frame(
    pod = c(pod, vapply(pods, field, "", "name", NA_character_)),
    slot = c(slot, missing(NA_integer_)),
    node = c(column("node", NA_character_), missing(NA_character_)),
    group = c(column("group", "default"), missing(NA_character_)),
    r_version = c(column("rVersion", NA_character_), missing(NA_character_)),
    state = c(column("state", NA_character_), missing("missing")),
    memory = c(numbers(slots, "memoryBytes"), missing(NA_real_)),
    call_age = c(unname(calls[sprintf("%s/%d", pod, slot)]), missing(NA_real_)),
    deaths = as.integer(c(numbers(slots, "deaths"), missing(NA_real_))),
    last_exit = c(column("lastExit", NA_character_), missing(NA_character_)),
    reason = c(column("reason", NA_character_), vapply(pods, field, "", "reason", NA_character_)),
    stringsAsFactors = FALSE)
}

# numbers takes a column that older releases do not tell.
numbers <- function(slots, name) vapply(slots, function(s) as.numeric(field(s, name, NA_real_)), 0)

# call_ages are the seconds for which workers have been busy with a call, by name.
call_ages <- function(clusters, at) {
  nodes <- unlist(lapply(clusters, field, "nodes", list()), recursive = FALSE)
  busy <- Filter(function(n) isTRUE(n$activity$busy) && !is.null(n$worker), nodes)
  ages <- vapply(busy, function(n) {
    max(0, as.numeric(difftime(at, when_time(field(n$activity, "since", NA_character_)), units = "secs")))
  }, 0)
  names(ages) <- vapply(busy, function(n) n$worker, "")
  ages
}

# leases describes this user's leases.
leases <- function() {
  all <- get_json("/v1/leases")
  column <- function(name, default) vapply(all, field, default, name, default)
  integers <- function(name) vapply(all, function(l) as.integer(field(l, name, NA_integer_)), 0L)
  data.frame(
    id = column("id", NA_character_), label = column("label", NA_character_), port = integers("port"),
    group = column("group", ""), workers = integers("workers"), share = column("share", FALSE),
    state = column("state", NA_character_), ready = integers("ready"), message = column("message", NA_character_),
    stringsAsFactors = FALSE)
}
