# `make` runs the fast part of CI; `bash .ci/run` runs all of it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Number of times that `make concurrent` runs the tests named ConcurrentSafe.
CONCURRENT_COUNT ?= 50
# Time that `make fuzz` spends on each target.
FUZZTIME ?= 30s
# Packages or files that `make mutation` mutates. For all others it uses the reports of earlier runs.
MUTATE ?= breaker keyfunc interceptor
# Flags for the programs of `make bench` and `make bench-compare`.
BENCHFLAGS ?=

EXAMPLES := minimal quickstart chained observability
PUBLIC   := ./breaker/... ./keyfunc/... ./interceptor/... ./otelbridge/... ./prombridge/...

# The nested modules: each go.mod below the root that git tracks, or that is new and not ignored. tools has no code.
LS_FILES    = git ls-files --cached --others --exclude-standard --
MODULES    := $(patsubst %/,%,$(dir $(shell $(LS_FILES) '*/go.mod')))
WITH_CODE  := $(foreach m,$(MODULES),$(if $(shell $(LS_FILES) '$m/*.go'),$m))

# Only this file names the version of golangci-lint.
GOLANGCI_VERSION := $(shell cat .ci/golangci-lint-version)
GOLANGCI_PACKAGE := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
GOBIN            := $(or $(shell go env GOBIN),$(firstword $(subst :, ,$(shell go env GOPATH)))/bin)
GOLANGCI         := $(GOBIN)/golangci-lint
GOFUMPT          := go tool -modfile=tools/go.mod gofumpt

comma := ,

# $(call in-modules,modules,command) runs command in each module and stops at the first failure.
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

# The tests must not depend on how they are run: the count, the order, GOMAXPROCS, and -short.
.PHONY: test-flags
test-flags:
	@$(call in-modules,. $(WITH_CODE),go test -short -count 2 -cpu 1$(comma)2$(comma)8 -shuffle on ./...)

# Runs tests with 32-bit ints. If the kernel cannot run 386 programs, this uses an emulator and takes some minutes.
.PHONY: test-386
test-386:
	@$(call in-modules,. $(WITH_CODE),GOARCH=386 CGO_ENABLED=0 go vet ./...)
	bash .ci/test-386 ./breaker ./keyfunc

# Only the nested modules. CI tests the root in an earlier step.
.PHONY: test-nested
test-nested:
	@$(call in-modules,$(WITH_CODE),go test ./...)

# Tests the rules, the alerts and the dashboard of monitoring, and the queries in docs/runbooks.md. Without -count=1 go
# test would print a cached result, because it does not notice changes of files outside of the nested module.
.PHONY: monitoring
monitoring:
	cd monitoring/test && go test -count=1 ./...

.PHONY: race
race:
	go test -race -timeout 5m ./...

# The first command fails if no test has the name. go test -run passes if its pattern matches nothing.
.PHONY: concurrent
concurrent:
	@go test -list ConcurrentSafe ./... | grep ^Test >/dev/null || { echo "no test is named ConcurrentSafe" >&2; exit 1; }
	go test -race -run ConcurrentSafe -count $(CONCURRENT_COUNT) -timeout 15m ./...

# Enables each bug of the build tag seededbugs in turn. The tests must catch each one.
.PHONY: seeded-bugs
seeded-bugs:
	@go vet -tags seededbugs ./breaker
	go run ./internal/seededbugs

# Runs each fuzz target in turn. The seeds of all targets also run in `make test`.
.PHONY: fuzz
fuzz:
	@for p in $$(go list ./...); do \
		for f in $$(go test -list ^Fuzz $$p | grep ^Fuzz || true); do \
			echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -parallel 2 $$p; \
		done; \
	done

# Only this line names the version of gremlins.
GREMLINS_VERSION := v0.6.0

# Takes fifty minutes on two cores; see docs/mutation.md.
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

# Runs the benchmarks and prints the ratio of each to the cost of the floor; see internal/bench.
.PHONY: bench
bench:
	go run ./internal/bench $(BENCHFLAGS)

# Measures this module and the other Go breakers. Writes docs/benchmarks.md, and the raw output to bench/benchmarks.txt,
# which git ignores. Takes a quarter of an hour; the machine should do nothing else in that time.
.PHONY: bench-compare
bench-compare:
	go -C internal/compare run ./speed/benchcompare $(BENCHFLAGS)

# Runs each benchmark once, to check that it still works.
.PHONY: bench-once
bench-once:
	go test -run '^$$' -bench . -benchmem -benchtime 1x ./...

# Runs the same scenarios on this module and on the other Go breakers and writes docs/comparison.md. Takes some minutes.
.PHONY: compare
compare:
	cd internal/compare && go test ./behaviour -count=1 -timeout 30m -run '^$$' -args -write ../../../docs/comparison.md

# Simulates minutes and days of calls in virtual time: random errors, lost connections, outages, flapping backends and
# targets that disappear. It prints how the breaker decides and what that costs. The documents quote these figures.
.PHONY: judgement
judgement:
	go test ./internal/judgement -count=1 -v -full -timeout 30m

.PHONY: lint
lint: lint-tool
	@$(call in-modules,. $(WITH_CODE),$(GOLANGCI) run ./...)

# Installs golangci-lint unless this version is already installed. It is built from source, because a release binary may
# be built with an older Go version than the one in use.
.PHONY: lint-tool
lint-tool:
	@if ! go version -m $(GOLANGCI) 2>/dev/null | \
		grep -E 'mod\s+github.com/golangci/golangci-lint/v2\s+$(GOLANGCI_VERSION)(\s|$$)' >/dev/null; then \
		echo "installing golangci-lint $(GOLANGCI_VERSION), which takes some minutes"; \
		GOBIN=$(GOBIN) go install $(GOLANGCI_PACKAGE)@$(GOLANGCI_VERSION); \
	fi

# gofumpt skips generated files.
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

# Importers of the module ignore a replace in its go.mod, so tests here would run other code than theirs.
.PHONY: tidy-check
tidy-check:
	@if go mod edit -json | grep '"Replace": \[' >/dev/null; then echo "the root go.mod has a replace" >&2; exit 1; fi
	@$(call in-modules,. $(MODULES),go mod tidy -diff)

.PHONY: generate
generate:
	go generate ./internal/testpb ./breaker/policyfile

# Compares the generated files with the files in the working tree, not with the last commit, so that it also works
# before a commit. In a fresh clone the two are the same.
.PHONY: generate-check
generate-check:
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; mkdir "$$tmp/before" "$$tmp/after"; \
	cp internal/testpb/*.pb.go "$$tmp/before"; \
	go generate ./internal/testpb; \
	cp internal/testpb/*.pb.go "$$tmp/after"; \
	git --no-pager diff --no-index --exit-code "$$tmp/before" "$$tmp/after" || \
		{ echo "generated code was out of date; it is regenerated now: commit it" >&2; exit 1; }

.PHONY: clean
clean:
	rm -rf cover.out bench.txt bench mutation
	find . -name .git -prune -o -type f \( -name '*.test' -o -name '*.prof' \) -exec rm -f {} +
