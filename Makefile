# Weir's commands. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
# Seconds that each fuzz target runs.
FUZZ_SECONDS ?= 10
WEIR := $(or $(CARGO_TARGET_DIR),target)/release/weir

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

.PHONY: build
build: ## build weir and bench-client for use (target/release)
	$(CARGO) build --release --workspace

.PHONY: demo
demo: build ## show it: 2,000 clients on 4 shards for about 20 seconds, every message checked
	"$${CARGO_TARGET_DIR:-target}/release/bench-client" demo

.PHONY: million
million: build ## a million connections on this machine: says first what it takes; ARGS="--connections 100000 --plan"
	"$${CARGO_TARGET_DIR:-target}/release/bench-client" million $(ARGS)

.PHONY: soak
soak: build ## keep a gateway under mixed traffic for 30 minutes; ARGS="--duration 8h"
	"$${CARGO_TARGET_DIR:-target}/release/bench-client" soak $(ARGS)

.PHONY: test
test: ## run every test there is but glommio-test, and count them
	@tests/all

.PHONY: lint
lint: ## check the formatting and run clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: glommio-test
glommio-test: ## lint and test what `--features glommio` adds: the contract, end to end, and bench-client on that reactor
	$(CARGO) clippy --workspace --all-targets --features glommio -- -D warnings
	$(CARGO) test --features glommio --test reactor_contract --test e2e glommio
	$(CARGO) test --features glommio --test real each_reactor

.PHONY: loom
loom: ## model-check the mesh: every schedule of the ring and of the sleep/wake protocol
	RUSTFLAGS="--cfg loom" $(CARGO) test --release --manifest-path tests/loom/Cargo.toml --lib --tests --target-dir "$${CARGO_TARGET_DIR:-target}/loom"

.PHONY: sim
sim: ## simulate whole gateways from SEEDS seeds (10000), beginning with FIRST (1)
	WEIR_SIM_SEEDS=$(or $(SEEDS),10000) WEIR_SIM_FIRST=$(or $(FIRST),1) $(CARGO) test --release --test simulation many_seeds

.PHONY: crash
crash: ## kill -9 the gateway under load, and cut its disk's power, ROUNDS (20) times in a row each; SEED repeats a load
	$(if $(SEED),WEIR_CRASH_SEED=$(SEED) )WEIR_CRASH_ROUNDS=$(or $(ROUNDS),20) $(CARGO) test --release --test crash -- --nocapture --test-threads 1

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZ_SECONDS (10)
	FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run

.PHONY: bench
bench: build ## measure Weir beside the bare loops and other servers, by turns: bench.json, bench.html; ARGS="--rounds 1 --only route-1"
	"$${CARGO_TARGET_DIR:-target}/release/bench-client" bench $(ARGS)

.PHONY: peers
peers: ## install the servers to measure Weir beside (as root, with apt-get), and say how to start them
	@bench-client/peers/install

.PHONY: tune
tune: $(WEIR) ## kernel limits: show what a million connections need; as root apply it, keeping what was there
	@$(call as_root,tune)

.PHONY: untune
untune: $(WEIR) ## restore what `make tune` found (as root)
	@$(call as_root,tune --undo)

# Root runs what was built, and builds nothing: cargo may not be there for root, and would leave files that only root may change.
$(WEIR):
	@if [ "$$(id -u)" = 0 ]; then echo "there is no $(WEIR) yet: run \`make build\` first, as the user who builds" >&2; exit 1; fi
	$(MAKE) build

# Anybody else sees what would be done, and what to type.
define as_root
if [ "$$(id -u)" = 0 ]; then exec "$(abspath $(WEIR))" $(1); fi; \
	"$(abspath $(WEIR))" $(1) --dry-run; echo "Only root may change it. Type: sudo $(abspath $(WEIR)) $(1)"
endef

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
