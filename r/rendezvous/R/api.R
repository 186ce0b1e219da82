# The rendezvous' HTTP interface, on loopback.

default_api <- "127.0.0.1:7461"

# fail raises an error of a class that callers can tell.
fail <- function(kind, ..., call = NULL) {
  stop(structure(
    class = c(paste0("rendezvous_", kind), "rendezvous_error", "error", "condition"),
    list(message = paste0(...), call = call)))
}

# address is where the rendezvous is, as the site profile has it.
address <- function() {
  api <- Sys.getenv("PSOCK_RENDEZVOUS_API", default_api)
  if (api == "off") {
    fail("unreachable", "PSOCK_RENDEZVOUS_API is \"off\": set it to the HOST:PORT of the rendezvous, ", default_api, " unless it was told otherwise")
  }
  if (!grepl("^.+:[0-9]{1,5}$", api)) {
    fail("unreachable", "PSOCK_RENDEZVOUS_API is \"", api, "\", which is not of the form HOST:PORT")
  }
  api
}

# request asks once. It returns the status and the decoded body; limit, in seconds,
# is how long the answer may take. An interrupt ends it.
request <- function(method, path, body = NULL, limit = 10) {
  api <- address()
  handle <- new_handle()
  # Loopback has no proxy, whatever the environment says.
  handle_setopt(handle, customrequest = method, noproxy = "*", connecttimeout_ms = 3000L,
    timeout_ms = as.integer(1000 * limit), useragent = "rendezvous (R)")
  if (!is.null(body)) {
    body <- charToRaw(enc2utf8(as.character(toJSON(body, auto_unbox = TRUE, digits = NA))))
    handle_setopt(handle, postfields = body, postfieldsize = length(body))
    handle_setheaders(handle, "Content-Type" = "application/json")
  }
  answer <- tryCatch(
    curl_fetch_memory(paste0("http://", api, path), handle),
    error = function(e) {
      if (grepl("aborted by an application callback", conditionMessage(e), fixed = TRUE)) interrupted()
      fail("unreachable", "the rendezvous at ", api, " does not answer (", conditionMessage(e),
        "). Look whether the rendezvous container of this pod runs, or set PSOCK_RENDEZVOUS_API to its HOST:PORT.")
    })
  text <- rawToChar(answer$content)
  Encoding(text) <- "UTF-8"
  if (answer$status_code >= 400L) {
    return(list(status = answer$status_code, error = sub("[\r\n]+$", "", text)))
  }
  list(status = answer$status_code,
    value = if (nzchar(text)) decode(text, api))
}

# interrupted goes on where curl has swallowed an interrupt and made an error of it.
interrupted <- function() {
  signalCondition(structure(class = c("interrupt", "condition"), list(message = "interrupted", call = NULL)))
  fail("interrupted", "interrupted")
}

decode <- function(text, api) {
  tryCatch(fromJSON(text, simplifyVector = FALSE), error = function(e) {
    fail("unreachable", "what answers at ", api, " is no rendezvous: ", conditionMessage(e))
  })
}

# get asks for something that has to be there.
get_json <- function(path) {
  answer <- request("GET", path)
  if (!is.null(answer$error)) fail("refused", answer$error)
  answer$value
}

# field takes a field that may be missing, or null.
field <- function(x, name, default) {
  value <- x[[name]]
  if (is.null(value)) default else value
}

# when_time reads a time as Go writes it: 2026-01-02T03:04:05.678901234+02:00.
when_time <- function(text) {
  if (is.na(text)) return(as.POSIXct(NA))
  parts <- regmatches(text, regexec("^(.*T[0-9:]+)([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$", text))[[1L]]
  if (length(parts) == 0L) return(as.POSIXct(NA))
  zone <- if (parts[4L] == "Z") "+0000" else sub(":", "", parts[4L])
  at <- as.POSIXct(strptime(paste0(parts[2L], zone), "%Y-%m-%dT%H:%M:%S%z", tz = "UTC"))
  if (nzchar(parts[3L])) at + as.numeric(parts[3L]) else at
}
