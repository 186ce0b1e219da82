.onAttach <- function(libname, pkgname) {
  if ("package:future" %in% search()) {
    packageStartupMessage("rendezvous: its cluster() hides that of future, which plan(cluster) needs. ",
      "Do not attach it: write rendezvous::cluster().")
  }
}

.onLoad <- function(libname, pkgname) {
  # Once a session: R warns of a type that is replaced.
  register <- get0("registerClusterType", asNamespace("parallel"), inherits = FALSE) # R 4.4 and later
  if (is.function(register) && !cluster_type %in% register()) register(cluster_type, function(...) cluster(...))
  setHook(packageEvent("parallelly", "onLoad"), function(...) register_nodes())
  if (isNamespaceLoaded("parallelly")) register_nodes()
}

cluster_type <- "RENDEZVOUS"
