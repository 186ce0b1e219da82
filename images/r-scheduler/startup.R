
# psock-runtime's site profile, see etc/psock-runtime.R in R's home.
local({
  file <- file.path(R.home("etc"), "psock-runtime.R")
  if (file.exists(file)) {
    if (!nzchar(Sys.getenv("PSOCK_PROFILE"))) Sys.setenv(PSOCK_PROFILE = file)
    sys.source(file, new.env())
  }
})
