# `make help` lists what there is. CARGO_FLAGS goes to every cargo build, for example CARGO_FLAGS=--locked.
#
# Programs are named by --bin and not by -p: cargo then gives the packages below them the same features each time, and
# what one target has built is not built again for another.

CARGO ?= cargo
CARGO_FLAGS ?=
PACKAGE_FLAGS ?=
CONFIG ?= server.conf
ARGS ?=
MINUTES ?= 2
SEED ?=

# So many seconds a test suite may take: a part of it that hangs fails. macOS has no `timeout`. At a terminal Ctrl-C must
# reach the tests; elsewhere it can end them with all that they have started.
TIMEOUT = $(shell command -v timeout >/dev/null && echo timeout -k 60 $$({ : </dev/tty; } 2>/dev/null && echo --foreground))
limited = $(if $(TIMEOUT),$(TIMEOUT) $(1))
RUST_TESTS = $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo nextest run --workspace || echo test --workspace --all-targets)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Run the sample server (CONFIG=server.conf, ARGS="--web-port any", ARGS="--help")
	$(CARGO) run --release $(CARGO_FLAGS) --bin sample_server -- --config $(CONFIG) $(ARGS)

.PHONY: test
test: lint test-rust test-cluster test-js test-mqtt test-web ## Lint, then run every test: Rust, documentation examples, cluster, TypeScript, MQTT clients, browser

.PHONY: test-rust
test-rust: ## Run the Rust tests (with private databases) and the documentation's examples
	$(CARGO) $(RUST_TESTS) --no-run $(CARGO_FLAGS)
	exec $(call limited,2400) scripts/with-databases $(CARGO) $(RUST_TESTS) $(CARGO_FLAGS) </dev/null
	exec $(call limited,1200) $(CARGO) test --workspace --doc $(CARGO_FLAGS) </dev/null

.PHONY: torture
torture: ## Do faults to a cluster under load and check what its clients saw (MINUTES=2, SEED=)
	$(CARGO) build --release $(CARGO_FLAGS) --bin torture --bin torture_node --bin jmqt-lb
	$(CARGO) run --release $(CARGO_FLAGS) --bin torture -- --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

.PHONY: test-cluster
test-cluster: ## Kill and stop nodes of a cluster while messages flow (examples/cluster)
	export CARGO="$(CARGO)" CARGO_FLAGS="$(CARGO_FLAGS)"; exec $(call limited,1200) examples/cluster/run --debug --demo </dev/null

.PHONY: test-js
test-js: ## Test the TypeScript client against the sample server (npm fetches what it needs)
	$(CARGO) build $(CARGO_FLAGS) --bin sample_server
	cd jmqt-js && exec $(call limited,600) npm ci --no-audit --no-fund </dev/null
	cd jmqt-js && exec $(call limited,1200) npm test </dev/null

.PHONY: test-mqtt
test-mqtt: ## Run MQTT clients of others against the sample server (pip, npm and apt-get fetch what they need)
	$(CARGO) build $(CARGO_FLAGS) --bin sample_server --bin jmqt
	exec $(call limited,900) interop/run </dev/null

.PHONY: test-web
test-web: ## Test the web page in Chromium (npm and apt-get fetch what it needs)
	$(CARGO) build $(CARGO_FLAGS) --bin sample_server --bin jmqt --bin tutorial
	cd examples/web/test && exec $(call limited,600) npm ci --no-audit --no-fund </dev/null
	cd examples/web/test && exec $(call limited,1200) npm test </dev/null

.PHONY: lint
lint: features ## Check format, clippy, cargo features, documentation, links and (with cargo-deny) dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps $(CARGO_FLAGS)
	scripts/book --check
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny check"; \
		$(CARGO) deny check; \
	else \
		echo "cargo-deny is not installed: licenses and advisories of dependencies were not checked"; \
	fi

# Each by itself, none, and the default. All together is what everything else builds.
FEATURES = none sqlite mysql redis tls ready ready-http admin sqlite,tls
CLIENT_FEATURES = none logging

.PHONY: features
features: ## Check that jmqt-server and jmqt-client build with each cargo feature alone, and with none
	set -e; for features in $(FEATURES); do \
		echo "jmqt-server with $$features"; \
		$(CARGO) clippy -q -p jmqt-server --no-default-features --features "$${features#none}" $(CARGO_FLAGS) -- -D warnings; \
	done
	set -e; for features in $(CLIENT_FEATURES); do \
		echo "jmqt-client with $$features"; \
		$(CARGO) clippy -q -p jmqt-client --no-default-features --features "$${features#none}" $(CARGO_FLAGS) -- -D warnings; \
	done

.PHONY: msrv
msrv: ## Build with the oldest Rust that each crate names (rustup fetches it)
	scripts/check-msrv

# What is meant for crates.io, and for npm.
CRATES = jmqt-log jmqt-config jmqt-core jmqt-protocol jmqt-mqtt jmqt-server jmqt-client jmqt-lb jmqt-broker

.PHONY: package
package: ## Make the packages for crates.io and npm, and build what is in them (PACKAGE_FLAGS=--allow-dirty before a commit)
	scripts/package-crates "$(CARGO_FLAGS) $(PACKAGE_FLAGS)" $(CRATES)
	cd jmqt-js && exec $(call limited,600) npm ci --no-audit --no-fund </dev/null
	cd jmqt-js && exec $(call limited,600) npm pack --pack-destination ../target/package </dev/null

.PHONY: docs
docs: ## Make a site of the documents in target/book/html (builds mdBook if it is missing)
	scripts/book

.PHONY: bench
bench: ## Measure beside Redis, NATS and Mosquitto (ARGS="--quick", ARGS="--help")
	$(CARGO) build --release $(CARGO_FLAGS) --bin hello_server
	$(CARGO) run --release $(CARGO_FLAGS) --bin bench -- $(ARGS)
