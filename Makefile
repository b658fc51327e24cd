# `make` is what CI runs, without the slow parts; `bash .ci/run` is all of it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# How often to run the tests that hunt races.
CONCURRENT_COUNT ?= 50
# How long `make fuzz` runs each target.
FUZZTIME ?= 30s
# What `make mutation` mutates, packages or files; of all others it takes the reports of earlier runs.
MUTATE ?= breaker keyfunc interceptor
# What `make bench` and `make bench-compare` hand to their programs.
BENCHFLAGS ?=

EXAMPLES := quickstart chained
PUBLIC   := ./breaker/... ./keyfunc/... ./interceptor/... ./otelbridge/... ./prombridge/...

# The nested modules: every go.mod below the root that git tracks, or would. tools has one and no code.
LS_FILES    = git ls-files --cached --others --exclude-standard --
MODULES    := $(patsubst %/,%,$(dir $(shell $(LS_FILES) '*/go.mod')))
WITH_CODE  := $(foreach m,$(MODULES),$(if $(shell $(LS_FILES) '$m/*.go'),$m))

# The one place that names the version of golangci-lint is this file.
GOLANGCI_VERSION := $(shell cat .ci/golangci-lint-version)
GOLANGCI_PACKAGE := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
GOBIN            := $(or $(shell go env GOBIN),$(firstword $(subst :, ,$(shell go env GOPATH)))/bin)
GOLANGCI         := $(GOBIN)/golangci-lint
GOFUMPT          := go tool -modfile=tools/go.mod gofumpt

comma := ,

# $(call in-modules,modules,command) runs command in each of modules, and ends at the first failure.
define in-modules
for m in $(1); do echo "[$$m] $(2)"; (cd $$m && $(2)); done
endef

.PHONY: all
all: build vet fmt-check fix-check test lint tidy-check generate-check

.PHONY: build
build:
	@$(call in-modules,. $(WITH_CODE),go build ./...)

.PHONY: vet
vet:
	@$(call in-modules,. $(WITH_CODE),go vet ./...)

.PHONY: test
test:
	@$(call in-modules,. $(WITH_CODE),go test ./...)

# The tests must not depend on how they are run: once or twice, in which order, on how many Ps, or in full.
.PHONY: test-flags
test-flags:
	@$(call in-modules,. $(WITH_CODE),go test -short -count 2 -cpu 1$(comma)2$(comma)8 -shuffle on ./...)

# Where int has 32 bits. It takes an emulator, and some minutes, where the kernel does not run 386 programs.
.PHONY: test-386
test-386:
	@$(call in-modules,. $(WITH_CODE),GOARCH=386 CGO_ENABLED=0 go vet ./...)
	bash .ci/test-386 ./breaker ./keyfunc

# Only the nested modules: CI has run the root by then.
.PHONY: test-nested
test-nested:
	@$(call in-modules,$(WITH_CODE),go test ./...)

.PHONY: race
race:
	go test -race -timeout 5m ./...

# The first command fails if no test has the name: a pattern that matches nothing passes, 50 times.
.PHONY: concurrent
concurrent:
	@go test -list ConcurrentSafe ./... | grep ^Test >/dev/null || { echo "no test is named ConcurrentSafe" >&2; exit 1; }
	go test -race -run ConcurrentSafe -count $(CONCURRENT_COUNT) -timeout 15m ./...

# The bugs that are seeded with the build tag mutant, each of which the tests must catch.
.PHONY: mutants
mutants:
	@go vet -tags mutant ./breaker
	go run ./internal/mutants

# Every fuzz target in turn. Their seeds run as tests anyway.
.PHONY: fuzz
fuzz:
	@for p in $$(go list ./...); do \
		for f in $$(go test -list ^Fuzz $$p | grep ^Fuzz || true); do \
			echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -parallel 2 $$p; \
		done; \
	done

# The one place that names the version of gremlins. It takes three quarters of an hour on two cores; see docs/mutation.md.
GREMLINS_VERSION := v0.6.0

.PHONY: mutation
mutation:
	go run ./internal/mutation -version $(GREMLINS_VERSION) $(MUTATE)

.PHONY: cover
cover:
	go test -coverprofile cover.out -coverpkg "$$(go list $(PUBLIC) | paste -sd, -)" ./...
	@go tool cover -func cover.out | tail -n 1

.PHONY: examples
examples:
	@for e in $(EXAMPLES); do echo "go run ./examples/$$e"; (cd examples/$$e && go run .); done

# Runs the benchmarks and prints their ratio to the floor.
.PHONY: bench
bench:
	go run ./internal/bench $(BENCHFLAGS)

# Compares with the other Go breakers and writes docs/benchmarks.md and docs/benchmarks.txt. It takes a quarter of an hour, in
# which the machine should do nothing else.
.PHONY: bench-compare
bench-compare:
	go -C internal/compare run ./speed/benchcompare $(BENCHFLAGS)

# Every benchmark once, so that none of them rots.
.PHONY: bench-once
bench-once:
	go test -run '^$$' -bench . -benchmem -benchtime 1x ./...

# Puts the same questions to the other Go breakers and writes docs/comparison.md. Takes some minutes.
.PHONY: compare
compare:
	cd internal/compare && go test ./behaviour -count=1 -timeout 30m -run '^$$' -args -write ../../../docs/comparison.md

# Shows by simulation in virtual time, and in full, how the breaker judges over minutes and days: what errors at random, lost
# connections, outages, flapping backends and dying targets cost. It prints the figures that the documents quote.
.PHONY: judgement
judgement:
	go test ./internal/judgement -count=1 -v -full -timeout 30m

.PHONY: lint
lint: lint-tool
	@$(call in-modules,. $(WITH_CODE),$(GOLANGCI) run ./...)

# Installs golangci-lint unless this version of it is there already. It is built from source, as a release binary may be
# older than the Go version in use.
.PHONY: lint-tool
lint-tool:
	@if ! go version -m $(GOLANGCI) 2>/dev/null | grep -E 'mod\s+github.com/golangci/golangci-lint/v2\s+$(GOLANGCI_VERSION)(\s|$$)' >/dev/null; then \
		echo "installing golangci-lint $(GOLANGCI_VERSION), which takes some minutes"; \
		GOBIN=$(GOBIN) go install $(GOLANGCI_PACKAGE)@$(GOLANGCI_VERSION); \
	fi

# gofumpt leaves generated files alone.
.PHONY: fmt
fmt:
	$(GOFUMPT) -l -w .

.PHONY: fmt-check
fmt-check:
	@files=$$($(GOFUMPT) -l .); \
	if [ -n "$$files" ]; then printf 'not formatted, run make fmt:\n%s\n' "$$files" >&2; exit 1; fi

.PHONY: fix
fix:
	@$(call in-modules,. $(WITH_CODE),go fix ./...)

.PHONY: fix-check
fix-check:
	@for m in . $(WITH_CODE); do \
		diff=$$(go -C $$m fix -diff ./...) && [ -z "$$diff" ] || \
			{ printf '[%s] not modern, run make fix:\n%s\n' "$$m" "$$diff" >&2; exit 1; }; \
	done

.PHONY: tidy
tidy:
	@$(call in-modules,. $(MODULES),go mod tidy)

# A replace in the root would be ignored by those who import the module: what is tested here is not what they get.
.PHONY: tidy-check
tidy-check:
	@if go mod edit -json | grep '"Replace": \[' >/dev/null; then echo "the root go.mod has a replace" >&2; exit 1; fi
	@$(call in-modules,. $(MODULES),go mod tidy -diff)

.PHONY: generate
generate:
	go generate ./internal/testpb

# Compares with what was there before rather than with the last commit, so that it also works on a change that is not yet
# committed. In a fresh clone the two are the same.
.PHONY: generate-check
generate-check:
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; mkdir "$$tmp/before" "$$tmp/after"; \
	cp internal/testpb/*.pb.go "$$tmp/before"; \
	go generate ./internal/testpb; \
	cp internal/testpb/*.pb.go "$$tmp/after"; \
	git --no-pager diff --no-index --exit-code "$$tmp/before" "$$tmp/after" || \
		{ echo "generated code was out of date; it is written anew now: commit it" >&2; exit 1; }

.PHONY: clean
clean:
	rm -rf cover.out bench.txt mutation
	find . -name .git -prune -o -type f \( -name '*.test' -o -name '*.prof' \) -exec rm -f {} +
