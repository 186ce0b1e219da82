# Installs R packages that are missing, and loads each once.
#
# Arguments, all "name=value": result (file to write), library ("" for R's own
# first writable one), repo (any number; none for R's own option repos), package
# (any number).
#
# The result file gets a line "package<TAB>state<TAB>text" each, state being
#   ok      text is "present" or "installed"
#   failed  it could not be installed, or just was and cannot be loaded
#   broken  it was there before and cannot be loaded
#   absent  the repositories answered and do not have it
#   setup, norepo  with an empty package: nothing could be tried
# Without a result file R did not get to its end.

local({
  args <- commandArgs(TRUE)
  value <- function(name) {
    prefix <- paste0(name, "=")
    substring(args[startsWith(args, prefix)], nchar(prefix) + 1L)
  }
  packages <- unique(value("package"))
  lib <- value("library")
  repos <- value("repo")

  results <- character(0)
  report <- function(package, state, text) {
    text <- gsub("[[:space:]]+", " ", paste(text, collapse = " "))
    results <<- c(results, paste(package, state, text, sep = "\t"))
  }
  finish <- function() {
    writeLines(enc2utf8(results), value("result"), useBytes = TRUE)
    quit("no", status = 0L)
  }

  writable <- function(dirs) dir.exists(dirs) & file.access(dirs, mode = 2L) == 0L
  if (nzchar(lib)) {
    dir.create(lib, recursive = TRUE, showWarnings = FALSE)
    .libPaths(c(lib, .libPaths()))
    # A lock in a library that is ours alone was left by an installation that
    # was killed; R would refuse to install into it ever after.
    unlink(Sys.glob(file.path(lib, "00LOCK*")), recursive = TRUE)
  } else {
    lib <- c(Filter(writable, .libPaths()), "")[[1L]]
  }

  present <- vapply(packages, function(p) length(find.package(p, quiet = TRUE)) > 0L, NA)
  missing <- packages[!present]
  absent <- character(0)
  if (length(missing) > 0L) {
    if (!writable(lib)) {
      report("", "setup", paste0(
        "no writable R library: ", paste(if (nzchar(lib)) lib else .libPaths(), collapse = ", ")))
      finish()
    }
    if (length(repos) == 0L) repos <- getOption("repos")
    if (length(repos) == 0L || any(repos == "@CRAN@")) {
      report("", "norepo", paste0(
        "R's option repos is ", if (length(repos) == 0L) "empty" else paste(dQuote(repos, FALSE), collapse = ", "),
        ": set --r-repos, or options(repos = ) in Rprofile.site"))
      finish()
    }
    # A repository that cannot be reached is an error or only a warning, by the
    # kind of its URL. What one that answers does not have is absent only if all
    # have answered.
    trouble <- character(0)
    index <- tryCatch(
      withCallingHandlers(
        utils::available.packages(repos = repos),
        warning = function(w) trouble <<- c(trouble, conditionMessage(w))),
      error = function(e) {
        trouble <<- c(trouble, conditionMessage(e))
        NULL
      })
    absent <- setdiff(missing, rownames(index))
    for (p in absent) {
      text <- paste("not in", paste(repos, collapse = ", "))
      if (length(trouble) == 0L) report(p, "absent", text) else report(p, "failed", c(text, "-", trouble))
    }
    wanted <- setdiff(missing, absent)
    if (length(wanted) > 0L) {
      tryCatch(utils::install.packages(wanted, lib = lib, repos = repos),
        error = function(e) message("Error: ", conditionMessage(e)))
    }
  }

  # Loading is tried in another process, with all of them at first, which is
  # quick and nearly always works, and one by one if it does not: a package that
  # crashes R says nothing about the others.
  Sys.setenv(R_LIBS = paste(.libPaths(), collapse = .Platform$path.sep))
  load <- function(ps) {
    expr <- sprintf("invisible(loadNamespace('%s'))", ps)
    suppressWarnings(system2(file.path(R.home("bin"), "Rscript"), c("-e", shQuote(paste(expr, collapse = ";"))),
      stdout = TRUE, stderr = TRUE))
  }
  installed <- setdiff(packages, absent)
  together <- length(installed) > 1L && is.null(attr(load(installed), "status"))
  for (p in installed) {
    out <- if (together) character(0) else load(p)
    if (is.null(attr(out, "status"))) {
      report(p, "ok", if (present[[p]]) "present" else "installed")
    } else {
      writeLines(out)
      report(p, if (present[[p]]) "broken" else "failed", utils::tail(setdiff(out, "Execution halted"), 5L))
    }
  }
  finish()
})
