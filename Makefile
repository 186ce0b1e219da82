# make demo   the 2021 post's computation on four workers of this machine
# make test   all tests, race detector included; those with R on two releases of R
# make cluster  a two-node Kubernetes on this machine, with the images of this tree
# All do their own set-up: R and its packages by apt when run as root on Debian,
# otherwise a message that names what to install.

STATICCHECK := go tool -modfile=tools/go.mod staticcheck
FUZZTIME ?= 100000x

.PHONY: all build dist images deps demo test cluster e2e lint generate fuzz bench clean

all: build

build:
	go build -trimpath -o bin/ ./cmd/...

# Static binaries, as the images have them.
dist:
	@for arch in amd64 arm64; do \
	  CGO_ENABLED=0 GOARCH=$$arch go build -trimpath -ldflags "-s -w" -o dist/linux-$$arch/ ./cmd/... || exit 1; \
	done

# Needs docker with buildx; REGISTRY and the bases: images/docker-bake.hcl. VERSION is what
# the chart asks for; BAKEFLAGS=--push pushes.
images: VERSION ?= $(shell sed -n 's/^appVersion: //p' charts/future/Chart.yaml)
images: dist
	VERSION=$(VERSION) docker buildx bake -f images/docker-bake.hcl $(BAKEFLAGS)

deps:
	@test/deps

demo: deps build
	@test/demo

test: deps lint
	@test/all

# test/cluster/down ends it.
cluster: deps
	@test/cluster/build
	@test/cluster/up >/dev/null
	@test/e2e/images/build
	@echo 'To use it: eval "$$(test/cluster/env)"'

# On a real Kubernetes: KUBECONFIG's, or a two-node one on this machine (test/cluster).
e2e:
	test/e2e/run

# pkg/psock is a module of its own, which ./... leaves out. What is in pkg builds, with its tests,
# on the systems of whoever imports it.
lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt'd: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags e2e ./test/e2e
	go -C pkg/psock vet ./...
	@for os in darwin windows; do \
	  echo "go vet for $$os"; \
	  GOOS=$$os go vet ./pkg/... && GOOS=$$os go -C pkg/psock vet ./... || exit 1; \
	done
	$(STATICCHECK) ./...
	$(STATICCHECK) -tags e2e ./test/e2e
	cd pkg/psock && go tool -modfile=../../tools/go.mod staticcheck ./...

# What is made from other files: the chart's README, schema and copy of the site profile, and the
# picture of the states in docs/architecture.md.
generate:
	cp r/Rprofile.site charts/future/files/Rprofile.site
	go -C tools run ./values-schema ../charts/future/values.yaml > charts/future/values.schema.json
	go tool -modfile=tools/go.mod helm-docs --chart-search-root=charts/future --template-files=README.md.gotmpl --log-level=warning
	go test ./internal/assign -run TestPictureOfTheStates -update >/dev/null

# Every fuzz test of the tree, FUZZTIME each: 1000000x is a million inputs, 1h an hour.
fuzz:
	@test/fuzz $(FUZZTIME)

bench:
	@bench/run

clean:
	rm -rf bin
