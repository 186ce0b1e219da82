# docker buildx bake -f images/docker-bake.hcl    (make images), from the top of the repository

variable "VERSION" { default = "dev" } # make: the chart's appVersion
variable "REGISTRY" { default = "ghcr.io/psock-runtime" }
# Bases of the two images with R, for instance a house image.
variable "R_WORKER_BASE" { default = "rocker/r-ver:4.5.2" }
variable "R_SCHEDULER_BASE" { default = "rocker/rstudio:4.5.2" }

group "default" {
  targets = ["rendezvous", "worker-agent", "r-worker", "r-scheduler"]
}

target "common" {
  context   = "."
  platforms = ["linux/amd64", "linux/arm64"]
  labels    = { "org.opencontainers.image.version" = VERSION }
}

target "rendezvous" {
  inherits   = ["common"]
  dockerfile = "images/rendezvous/Dockerfile"
  tags       = ["${REGISTRY}/rendezvous:${VERSION}"]
}

target "worker-agent" {
  inherits   = ["common"]
  dockerfile = "images/worker-agent/Dockerfile"
  tags       = ["${REGISTRY}/worker-agent:${VERSION}"]
}

target "r-worker" {
  inherits   = ["common"]
  dockerfile = "images/r-worker/Dockerfile"
  tags       = ["${REGISTRY}/r-worker:${VERSION}"]
  args       = { BASE = R_WORKER_BASE }
}

target "r-scheduler" {
  inherits   = ["common"]
  dockerfile = "images/r-scheduler/Dockerfile"
  tags       = ["${REGISTRY}/r-scheduler:${VERSION}"]
  args       = { BASE = R_SCHEDULER_BASE }
}
