# The few commands of this project: `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB := PYTHONPATH=hack:operator $(BIN)/python -m lab

.PHONY: help setup demo lab clean-lab test unit simulation bench-migration lint generate lock clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/.ready ## Debian packages, Python environment and tool chain (once per machine; the first time minutes)
	@$(LAB) toolchain

$(VENV)/.ready: pyproject.toml requirements.lock requirements-build.lock hack/packages
	hack/packages
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-build.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-build-isolation -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup ## show it: a VM moves and is confirmed, moves on and is reverted, on real hypervisors (KEEP=1 leaves the lab running)
	@PYTHONPATH=hack:operator $(BIN)/python hack/demo.py

lab: setup ## start a control plane, three hosts, controller and agents; prints `export KUBECONFIG=PATH`
	@$(LAB) up

clean-lab: $(VENV)/.ready ## stop every lab and remove all that it left, by its record
	@$(LAB) clean

test: setup ## every test, on the real thing
	$(BIN)/pytest -n 4 --no-loadscope-reorder

unit: $(VENV)/.ready ## the tests that need nothing but Python: seconds
	$(BIN)/pytest tests/unit tests/contract

simulation: $(VENV)/.ready ## SEEDS=N lives of two VMs under every fault, on all cores; SEED=K replays one
	@PYTHONPATH=tests/support:operator $(BIN)/python -m simulated $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),2000))

bench-migration: setup ## one migration beside its unavoidable parts, into build/bench/migration.json
	@PYTHONPATH=hack:operator $(BIN)/python hack/bench/migration.py

lint: $(VENV)/.ready ## ruff, mypy strict, layers, generated files up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy operator/kubeferry hack
	$(BIN)/lint-imports
	$(BIN)/python hack/generate.py --check
	@test ! -e operator/__init__.py && test ! -e tests/operator || { echo "operator/__init__.py or tests/operator would shadow Python's own operator module" >&2; exit 1; }

generate: $(VENV)/.ready ## write crds/ and manifests/crds.yaml from the models
	$(BIN)/python hack/generate.py

LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 --upgrade
lock: $(VENV)/.ready ## take the newest dependencies into the lock files
	$(LOCK) pyproject.toml --all-extras -o requirements.lock
	echo 'setuptools>=77' | $(LOCK) - -o requirements-build.lock

clean: ## remove what the build made (labs: see clean-lab)
	rm -rf $(VENV) build operator/kubeferry.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
