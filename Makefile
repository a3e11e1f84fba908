# `make help` lists what there is. CARGO_FLAGS goes to every cargo build, for example CARGO_FLAGS=--locked.

CARGO ?= cargo
CARGO_FLAGS ?=
CONFIG ?= server.conf
ARGS ?=
MINUTES ?= 2
SEED ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Run the sample server (CONFIG=server.conf)
	$(CARGO) run --release $(CARGO_FLAGS) -p sample_server -- --config $(CONFIG)

.PHONY: test
test: lint test-rust test-cluster test-js test-web ## Lint, then run every test: Rust, documentation examples, cluster, TypeScript, browser

.PHONY: test-rust
test-rust: ## Run the Rust tests (with private databases) and the documentation's examples
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo "$(CARGO) nextest run --workspace $(CARGO_FLAGS)"; \
		scripts/with-databases $(CARGO) nextest run --workspace $(CARGO_FLAGS); \
	else \
		echo "$(CARGO) test --workspace --all-targets $(CARGO_FLAGS)"; \
		scripts/with-databases $(CARGO) test --workspace --all-targets $(CARGO_FLAGS); \
	fi
	$(CARGO) test --workspace --doc $(CARGO_FLAGS)

.PHONY: torture
torture: ## Do faults to a cluster under load and check what its clients saw (MINUTES=2, SEED=)
	$(CARGO) build --release $(CARGO_FLAGS) -p torture -p jmqt-lb
	$(CARGO) run --release $(CARGO_FLAGS) -p torture -- --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

.PHONY: test-cluster
test-cluster: ## Kill and stop nodes of a cluster while messages flow (examples/cluster)
	CARGO="$(CARGO)" CARGO_FLAGS="$(CARGO_FLAGS)" examples/cluster/run --demo

.PHONY: test-js
test-js: ## Test the TypeScript client against the sample server (npm fetches what it needs)
	$(CARGO) build $(CARGO_FLAGS) -p sample_server
	cd jmqt-js && npm ci --no-audit --no-fund && npm test

.PHONY: test-web
test-web: ## Test the web page in Chromium (npm and apt-get fetch what it needs)
	$(CARGO) build $(CARGO_FLAGS) -p sample_server -p jmqt-client
	cd examples/web/test && npm ci --no-audit --no-fund && npm test

.PHONY: lint
lint: ## Check format, clippy, documentation and (with cargo-deny) dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps $(CARGO_FLAGS)
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny check"; \
		$(CARGO) deny check; \
	else \
		echo "cargo-deny is not installed: licenses and advisories of dependencies were not checked"; \
	fi

.PHONY: bench
bench: ## Measure beside Redis, NATS and Mosquitto (ARGS="--quick", ARGS="--help")
	$(CARGO) build --release $(CARGO_FLAGS) -p hello_server
	$(CARGO) run --release $(CARGO_FLAGS) -p bench -- $(ARGS)
