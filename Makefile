# Short names for what one does with this repository. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)
# Options for the demo, as in `make demo DEMO="--bed loopback"`.
DEMO ?=
# Options for what is measured, as in `make measure EDGE="--workload connect"`.
EDGE ?=

.PHONY: help demo measure test test-openzfs lint loom fuzz deny programs packages

help: ## Lists these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: packages ## Moves two stateful apps between two nodes under load, and reports
	$(CARGO) build --release --workspace --bins
	target/release/flocker-bench demo $(DEMO)

measure: packages ## What the edge costs beside its peers: target/edge.json and target/edge.html
	$(CARGO) build --release --package flocker-proxy --package flocker-bench --bins
	$(CARGO) build --release --package flocker-bench --example lookup
	target/release/flocker-bench edge $(EDGE) --json target/edge.json
	target/release/flocker-bench report target/edge.json --out target/edge.html

test: packages programs ## Runs everything that checks the project
ifdef NEXTEST
	$(CARGO) test --workspace --doc --quiet
	$(MAKE) --no-print-directory loom
	$(CARGO) nextest run --workspace --no-fail-fast
else
	$(CARGO) test --workspace --doc --quiet
	$(MAKE) --no-print-directory loom
	$(CARGO) test --workspace --lib --bins --tests --no-fail-fast
endif

test-openzfs: ## Runs the storage tests on OpenZFS, in a guest; OPENZFS=2.1 for that version
	scripts/openzfs-guest build
	program=$$($(CARGO) test --package flocker-storage-agent --test replication --no-run 2>&1 \
		| tee /dev/stderr | sed -n 's/.*Executable.*(\(.*\))$$/\1/p'); \
	FLOCKER_TEST_ROUNDS=$${FLOCKER_TEST_ROUNDS:-10} \
		scripts/openzfs-guest run "$$program" zfs:: --test-threads 3

programs: ## Builds the programs that the tests start
	$(CARGO) build --workspace --bins

lint: ## Formatting, clippy, rustdoc: without a warning
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --quiet

loom: ## The edge's gate under every interleaving that matters
	RUSTFLAGS="--cfg flocker_loom" $(CARGO) test --package flocker-proxy --lib --target-dir target/loom gate::loom

fuzz: packages ## The parsers of what comes from outside, FUZZ_SECONDS each (default 20)
	scripts/fuzz

deny: ## Licences, bans and sources of dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

packages: ## Installs the Debian packages that demo and tests use, where one may
	@scripts/packages
