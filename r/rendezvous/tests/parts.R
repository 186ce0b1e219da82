# The parts that need no rendezvous.
part <- function(name) get(name, asNamespace("rendezvous"))
message_of <- function(expr) tryCatch({ expr; "no error" }, error = conditionMessage)
class_of <- function(expr) tryCatch({ expr; "no error" }, error = function(e) class(e)[1L])

# Times as Go writes them.
when_time <- part("when_time")
at <- as.POSIXct("2026-01-02 03:04:05", tz = "UTC")
stopifnot(
  when_time("2026-01-02T03:04:05Z") == at,
  abs(as.numeric(when_time("2026-01-02T03:04:05.25Z")) - as.numeric(at) - 0.25) < 1e-6,
  when_time("2026-01-02T05:04:05+02:00") == at,
  is.na(when_time("yesterday")), is.na(when_time(NA_character_)))

# What is asked for is looked at first.
Sys.setenv(PSOCK_RENDEZVOUS_API = "127.0.0.1:1") # where nobody listens
for (wrong in list(0, -1, 1.5, NA, "two", c(1, 2))) {
  stopifnot(startsWith(message_of(rendezvous::cluster(wrong)), "n: give a whole number"))
}
stopifnot(
  startsWith(message_of(rendezvous::cluster(1, group = 7)), "group: "),
  startsWith(message_of(rendezvous::cluster(1, label = NA)), "label: "),
  startsWith(message_of(rendezvous::cluster(1, share = NA)), "share: "),
  startsWith(message_of(rendezvous::cluster(1, quiet = "no")), "quiet: "),
  startsWith(message_of(rendezvous::cluster(1, check = NULL)), "check: "),
  startsWith(message_of(rendezvous::cluster(1, timeout = 0)), "timeout: "),
  grepl("100000 workers do not fit", message_of(rendezvous::cluster(1e5))))

# Nobody there, and an address that is none.
stopifnot(
  class_of(rendezvous::cluster(1)) == "rendezvous_unreachable",
  grepl("the rendezvous at 127.0.0.1:1 does not answer", message_of(rendezvous::workers())))
Sys.setenv(PSOCK_RENDEZVOUS_API = "here")
stopifnot(grepl("not of the form HOST:PORT", message_of(rendezvous::leases())))
Sys.setenv(PSOCK_RENDEZVOUS_API = "off")
stopifnot(grepl("is \"off\"", message_of(rendezvous::leases())))

# Versions: what differs, and what is missing there if it is attached here.
differences <- part("differences")
own <- list(r = "4.2.2", packages = c(dplyr = "1.1.0", rlang = "1.0", sf = "1.0"))
stopifnot(
  identical(differences(own, own, character()), character()),
  identical(
    differences(list(r = "4.5.1", packages = c(dplyr = "1.0.9", rlang = NA, sf = NA)), own, "sf"),
    c("R 4.2.2 here, 4.5.1 there", "dplyr 1.1.0 here, 1.0.9 there", "sf is not installed there")))
probe <- part("probe")()
stopifnot(identical(environment(probe), baseenv()))
found <- unserialize(serialize(probe, NULL))(c("stats", "nosuchpackage"))
stopifnot(
  found$r == as.character(getRversion()),
  found$packages[["stats"]] == as.character(getRversion()),
  is.na(found$packages[["nosuchpackage"]]),
  !"stats" %in% part("relevant_packages")())

# Progress: a line when there is news, not more than one in ten seconds, and none when
# it is not wanted.
said <- character()
say <- function(expr) withCallingHandlers(expr, message = function(m) {
  said <<- c(said, conditionMessage(m))
  invokeRestart("muffleMessage")
})
line <- part("progress")(quiet = FALSE)
say({
  line$show("1 of 3", 1); line$show("2 of 3", 2); line$show("2 of 3", 12); line$show("2 of 3", 40); line$show("3 of 3", 41)
  part("progress")(quiet = TRUE)$show("1 of 3", 1)
  line$done()
})
stopifnot(identical(said, c("rendezvous: 1 of 3 (1 s)\n", "rendezvous: 2 of 3 (12 s)\n", "rendezvous: 3 of 3 (41 s)\n")[seq_along(said)]),
  length(said) >= 2)
