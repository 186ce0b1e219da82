.onAttach <- function(libname, pkgname) {
  if ("package:future" %in% search()) {
    packageStartupMessage("rendezvous: its cluster() hides that of future, which plan(cluster) needs. ",
      "Do not attach it: write rendezvous::cluster().")
  }
}
