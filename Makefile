# What can be run here. All of it works on a fresh Debian machine with Rust; see scripts/setup.sh.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
APP ?= target/app
.PHONY: help setup build app package prove-package prove-azure test soak fmt lint demo bench clean

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what tests, demo and bench need (PostgreSQL 15, 17, 18 beside the system)
	@scripts/setup.sh

build: ## build the command, target/release/flexkeep
	cargo build --release --locked -p flexkeep-cli

app: ## build the command and put the function app together in target/app (APP=FOLDER for another)
	cargo build --release --locked -p flexkeep-cli -p flexkeep-handlers
	@scripts/app.sh "$$(cargo metadata --locked --no-deps --format-version 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/flexkeep-handler" "$(APP)"

package: ## build the zip for Azure Functions, target/package/flexkeep.zip (POLICY=FILE goes in as its policy)
	@scripts/package.sh $(if $(POLICY),"$(POLICY)")

prove-package: ## run that package where there is nothing but it: an older, bare system (ZIP=FILE for another)
	@scripts/prove-package.sh $(if $(ZIP),"$(ZIP)")

prove-azure: setup package ## the same on a server like Flexible Server, into Azurite
	@. scripts/env.sh; target=$$(cargo metadata --locked --no-deps --format-version 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'); \
	cargo build --locked --workspace && FLEXKEEP_BIN=$$target/debug/flexkeep FLEXKEEP_PACKAGE=$$target/package/flexkeep.zip \
	cargo test --locked --workspace --test package_on_azure -- --ignored

test: ## all checks: formatting, lints, every test against real servers
	@scripts/test.sh

soak: ## chaos for SECONDS=1800 from SEED=N on; with ROUNDS=N the tests that repeat themselves, N times as long
	@$(if $(SECONDS),FLEXKEEP_SOAK_SECONDS=$(SECONDS)) $(if $(SEED),FLEXKEEP_SEED=$(SEED)) scripts/soak.sh $(ROUNDS)

fmt: ## format the code
	cargo fmt --all

lint: ## formatting and lints only
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

demo: ## see it work: a throwaway server is backed up, changed, backed up, restored and compared
	@scripts/demo.sh

bench: setup ## measure against pg_dump and against the limit (takes an hour; BENCH=--quick for a try)
	@python3 scripts/bench.py all $(BENCH)

clean: ## remove build outputs (unpacked servers stay; setup.sh says where)
	cargo clean
