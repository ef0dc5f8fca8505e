# Weft's one entry. `make` alone lists what there is; each target says what it does and little more.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The order of the steps is meant; cargo and go use all cores by themselves.
.NOTPARALLEL:

SETUP := python3 deploy/setup/setup.py
WEFT := target/release/weft
RUFF := .weft/venv-tools/bin/ruff
SHELLCHECK := .weft/venv-tools/bin/shellcheck
BUF := .weft/venv-tools/bin/buf
PYTEST := .weft/venv-clients/bin/python -m pytest

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

## Run it

up: setup build ## from nothing to a real answer: set up, build, start the mesh
	$(WEFT) up

down: ## stop the mesh
	$(WEFT) down

status: ## how the mesh is
	$(WEFT) status

bench: setup build ## Weft beside transformers on this machine, in one run (downloads 3 GB once)
	$(SETUP) bench
	.weft/venv-bench/bin/python tests/bench/compare_transformers.py

## Build it

setup: ## fetch libtorch and the default model
	$(SETUP)

build: ## build the services and the CLI in release mode
	cargo build --release --locked --bins

libtorch: ## fetch libtorch
	$(SETUP) libtorch

model: ## fetch and convert the default model
	$(SETUP) model-tools model

jaeger: ## build Jaeger v2, so that `weft up` starts it and `weft trace` shows traces
	$(SETUP) jaeger

clients: ## fetch the official Python gRPC client, and grpcurl
	$(SETUP) clients grpcurl

## Check it

test: test-setup test-build test-python test-rust test-conformance ## set up all it needs and run every test

test-setup:
	$(SETUP) all

# One build for the tests and for the programs that the conformance tests start: the same features, so nothing twice.
test-build:
	cargo build --workspace --bins --tests --locked

test-rust:
	cargo test --workspace --locked

test-python:
	python3 -m unittest deploy/setup/tests/test_setup.py
	.weft/venv-setup/bin/python -m unittest deploy/setup/tests/test_model.py

test-conformance:
	$(PYTEST) tests/conformance/python

lint: ## what CI checks beside the tests
	.ci/lint

fmt: ## format everything
	$(SETUP) tools
	cargo fmt --all
	$(RUFF) format .
	$(BUF) format --write proto

ci: ## what CI runs, all of it
	.ci/run

clean: ## stop the mesh, remove what was built; keep what was fetched
	-[ ! -x $(WEFT) ] || $(WEFT) down
	cargo clean

.PHONY: help up down status bench setup build libtorch model jaeger clients \
	test test-setup test-build test-rust test-python test-conformance lint fmt ci clean
