# What a stack is: a release of Debian, for its R, and these packages of it. deps, build and run-on share it.

STACKS=${STACK_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/psock-stacks} # root file systems
STACK_NAMES="oldest current"
# Taken for current, loudly, on days on which Debian testing cannot be installed.
FALLBACK=trixie

# What tests with R need of Debian, on the host and in a root file system.
TEST_PACKAGES="make git ca-certificates r-base-core r-recommended r-cran-future r-cran-future.apply r-cran-parallelly
  r-cran-furrr r-cran-foreach r-cran-doparallel r-cran-progressr r-cran-callr
  r-cran-curl r-cran-jsonlite r-cran-knitr r-cran-markdown iproute2 nftables procps gcc libc6-dev prometheus"
# What the images of the Kubernetes tests are made of.
IMAGE_PACKAGES="r-base-core r-cran-future r-cran-future.apply r-cran-parallelly r-cran-curl r-cran-jsonlite passwd"

# release_of STACK: the release of Debian that it is.
release_of() {
  case $1 in
  oldest) echo bookworm ;;
  current) echo testing ;;
  *)
    echo "there is no stack $1, only: $STACK_NAMES" >&2
    return 2
    ;;
  esac
}

# on_host STACK: this machine is it.
on_host() {
  local release
  release=$(release_of "$1") || return
  [ "$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}")" = "$release" ]
}
