# The data frames, from what a rendezvous answers.
state <- '{"build":"1","backend":"netlink",
 "workers":[
  {"agent":"pod-a","slot":0,"group":"gpu","address":"1.2.3.4:5","state":"bound","since":"2026-01-02T03:04:05Z","pid":12,
   "node":"machine-1","rVersion":"4.5.1","memoryBytes":123456789012,"deaths":2,"lastExit":"killed by signal 9"},
  {"agent":"pod-b","slot":1,"address":"1.2.3.4:6","state":"failed","reason":"no Rscript","since":"2026-01-02T03:04:05Z"}],
 "pods":[{"name":"pod-c","reason":"ImagePullBackOff"}],
 "clusters":[{"id":1,"port":11562,"uid":1000,"nodes":[
  {"state":"bound","worker":"pod-a/0","activity":{"busy":true,"since":"2026-01-02T03:04:05.5Z","calls":1}},
  {"state":"vacant","activity":{"busy":true,"since":"2026-01-02T03:04:05Z"}},
  {"state":"bound","worker":"pod-b/1","activity":{"busy":false,"since":"2026-01-02T03:04:05Z"}}]}]}'
leases <- '[{"id":"k3","port":11234,"uid":1000,"label":"report","workers":6,"group":"gpu","share":true,"state":"waiting","ready":2,"message":"2 of 6","version":3},
 {"id":"m4","port":11235,"uid":1000,"workers":1,"group":"","share":false,"state":"ready","ready":1,"message":"","version":3}]'
answer <- state
utils::assignInNamespace("request", function(method, path, ...) {
  stopifnot(method == "GET")
  list(status = 200L, value = jsonlite::fromJSON(answer, simplifyVector = FALSE))
}, "rendezvous")

w <- rendezvous::workers()
stopifnot(
  identical(names(w), c("pod", "slot", "node", "group", "r_version", "state", "memory", "call_age", "deaths", "last_exit", "reason")),
  identical(w$pod, c("pod-a", "pod-b", "pod-c")), identical(w$slot, c(0L, 1L, NA)),
  identical(w$node, c("machine-1", NA, NA)), identical(w$group, c("gpu", "default", NA)),
  identical(w$r_version, c("4.5.1", NA, NA)), identical(w$state, c("bound", "failed", "missing")),
  identical(w$memory, c(123456789012, NA, NA)), identical(w$deaths, c(2L, NA, NA)),
  identical(w$last_exit, c("killed by signal 9", NA, NA)), identical(w$reason, c(NA, "no Rscript", "ImagePullBackOff")),
  w$call_age[1] > 1000, is.na(w$call_age[2:3]))

answer <- '{"build":"1","backend":"netlink","workers":[],"clusters":[]}'
stopifnot(identical(dim(rendezvous::workers()), c(0L, 11L)))

answer <- leases
l <- rendezvous::leases()
stopifnot(
  identical(l$id, c("k3", "m4")), identical(l$label, c("report", NA)), identical(l$port, c(11234L, 11235L)),
  identical(l$workers, c(6L, 1L)), identical(l$share, c(TRUE, FALSE)), identical(l$ready, c(2L, 1L)))
answer <- "[]"
stopifnot(nrow(rendezvous::leases()) == 0L)
