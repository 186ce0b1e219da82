# compare warns when the workers' R, or a package's version, differs from this
# session's: results may then differ, or futures fail in odd ways. It calls one node,
# or all if they may be of several worker groups, once.
compare <- function(cl, lease) {
  own <- list(r = r_version(), packages = versions(relevant_packages()))
  theirs <- clusterCall(cl[nodes_to_ask(length(cl), lease)], probe(), names(own$packages))
  text <- unique(unlist(lapply(theirs, differences, own = own, attached = attached())))
  if (length(text)) {
    warning("the workers differ from this session: ", paste(text, collapse = "; "),
      " (check = FALSE, or options(rendezvous.check = FALSE), leaves this out)", call. = FALSE)
  }
  invisible(text)
}

# nodes_to_ask: the workers of a group have one image. Nodes that take turns on few
# workers would have to take one each to be asked.
nodes_to_ask <- function(n, lease) {
  if (nzchar(lease$group) || isTRUE(lease$share) || length(groups_there()) <= 1L) return(1L)
  seq_len(n)
}

groups_there <- function() {
  state <- tryCatch(get_json("/v1/state"), rendezvous_error = function(e) list())
  unique(vapply(field(state, "workers", list()), field, "", "group", "default"))
}

# probe is the function that a worker runs: its environment is not this package's,
# which a worker need not have. The rendezvous knows it by its arguments, and that it leaves
# the worker as it was (internal/facts): the name is in what is sent.
probe <- function() {
  f <- function(packages, caller = "rendezvous:::compare()") {
    version <- function(p) {
      file <- system.file("DESCRIPTION", package = p)
      if (nzchar(file)) read.dcf(file, "Version")[[1L]] else NA_character_
    }
    list(r = as.character(getRversion()), packages = vapply(packages, version, ""))
  }
  environment(f) <- baseenv()
  attr(f, "srcref") <- NULL
  f
}

base_packages <- c("base", "compiler", "datasets", "graphics", "grDevices", "grid", "methods",
  "parallel", "splines", "stats", "stats4", "tcltk", "tools", "utils")

r_version <- function() as.character(getRversion())

attached <- function() sub("^package:", "", grep("^package:", search(), value = TRUE))

# relevant_packages are those that this session has loaded, but for R's own and what
# this package itself needs.
relevant_packages <- function() {
  sort(setdiff(loadedNamespaces(), c(base_packages, "rendezvous", "curl", "jsonlite")))
}

versions <- function(packages) {
  vapply(packages, function(p) as.character(getNamespaceVersion(p)), "")
}

# differences says, in a few words each, how one worker differs. A package that it
# lacks is worth a word only if the session has attached it.
differences <- function(theirs, own, attached) {
  text <- character()
  if (theirs$r != own$r) text <- sprintf("R %s here, %s there", own$r, theirs$r)
  for (p in names(own$packages)) {
    there <- theirs$packages[[p]]
    if (is.na(there)) {
      if (p %in% attached) text <- c(text, sprintf("%s is not installed there", p))
    } else if (there != own$packages[[p]]) {
      text <- c(text, sprintf("%s %s here, %s there", p, own$packages[[p]], there))
    }
  }
  text
}
