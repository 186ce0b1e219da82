# Installs those of the named R packages that are missing, and fails when one cannot
# be loaded afterwards.
packages <- commandArgs(trailingOnly = TRUE)
there <- function(p) nzchar(system.file(package = p))
missing <- packages[!vapply(packages, there, NA)]
if (length(missing)) install.packages(missing, Ncpus = parallel::detectCores())
for (p in packages) loadNamespace(p)
