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

# QUICK=1 is for development; BENCH_FLAGS such as `--cells one-bf16` or `--resume` go to the script.
bench: setup build clients bench-peers ## Weft beside its peers on this machine, in one run (25 min; once 8 GB of peers, 25 min)
	cargo build --release --locked -p weft-inference --examples
	python3 tests/bench/bench.py $(if $(QUICK),--quick) $(BENCH_FLAGS)

bench-peers: ## fetch and build the peers of `make bench`
	$(SETUP) peers

bench-structured: setup build clients ## 1,000 structured answers: all valid, and what they cost beside free text
	.weft/venv-clients/bin/python tests/bench/structured.py --full

bench-overload: setup build clients ## three times the load that can be served, and a noisy neighbour: figures and bars (5 min)
	cargo build --release --locked -p weft-inference --example paced
	.weft/venv-clients/bin/python tests/bench/overload.py

bench-overhead: setup build clients ## what the gateway and its services add to an engine's answer, beside Envoy and smg (10 min)
	$(SETUP) overhead bench-report
	cargo build --release --locked -p weft-gateway --example metronome
	.weft/venv-clients/bin/python tests/bench/overhead.py

quality: setup build ## perplexity of every format of weights on a fixed text, beside bf16 and f32 (minutes)
	$(SETUP) model-f32 clients text
	.weft/venv-clients/bin/python tests/quality/perplexity.py

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

kubernetes: ## build etcd and kube-apiserver, for `make test-kubernetes`
	$(SETUP) kubernetes

languages: ## fetch what the example clients in Go, Node.js and Java need
	$(SETUP) tools client-go client-node client-java

lm-eval: ## fetch lm-eval
	$(SETUP) lm-eval

## Check it

test: test-setup test-build test-python test-rust test-conformance ## set up all it needs and run every test

test-setup:
	$(SETUP) all

# One build for the tests and for the programs that the conformance tests start: the same features, so nothing twice.
test-build:
	cargo build --workspace --bins --tests --example smallest --locked

# Examples are measuring instruments: clippy compiles them all, and the tests run the one that they need.
test-rust:
	cargo test --workspace --lib --bins --tests --locked
	cargo test --workspace --doc --locked

test-python:
	python3 -m unittest deploy/setup/tests/test_setup.py
	.weft/venv-setup/bin/python -m unittest deploy/setup/tests/test_model.py

test-conformance:
	$(PYTEST) tests/conformance/python

test-lm-eval: setup clients jaeger lm-eval test-build ## lm-eval, unmodified, through the HTTP API (once 250 MB of packages)
	$(PYTEST) tests/conformance/python/evaluation.py

test-faults: setup build clients ## kill -9 under 64 streams, and rolling restarts, as often as the bars say (25 min)
	$(SETUP) model-f32
	WEFT_BINARIES=$(CURDIR)/target/release $(PYTEST) tests/conformance/python/test_resume.py \
		tests/conformance/python/test_rolling.py --full

test-kubernetes: setup clients kubernetes test-build ## discovery against a real Kubernetes API server
	$(PYTEST) tests/kubernetes

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

.PHONY: help up down status bench quality bench-peers bench-structured bench-overload bench-overhead setup build libtorch \
	model jaeger clients kubernetes languages lm-eval \
	test test-setup test-build test-rust test-python test-conformance test-lm-eval test-faults test-kubernetes lint fmt ci clean
