# Thin on purpose: what is done is done by `adapterloop` and the tools named in pyproject.toml.
PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/pip --disable-pip-version-check
KIND := $(if $(WORKER),--worker $(WORKER))
PIP_INSTALL := $(PIP) install -qq --no-deps

.DEFAULT_GOAL := help
.PHONY: help up setup check format test test-fast demo bench figures lock clean

help:
	@echo "make up       the whole loop on this machine: gateway, guards, worker, model; WORKER=llamacpp: a faster one"
	@echo "make test     unit, integration and acceptance tests (the last with a real vLLM)"
	@echo "make check    format, lint, types, import rules"
	@echo "make setup    environments and model only;  make clean  removes them"
	@echo "make demo     two nights of the loop, from tickets to a better adapter; QUICK=1: one; CONTROL=1: one that must fail"
	@echo "make bench    what a call costs;  make figures PART=adapters  placement, swaps, faults;  make lock"

$(STAMP): pyproject.toml $(wildcard deploy/locks/*.txt)
	@test -x $(BIN)/python || { echo "[setup] making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "[setup] installing the locked packages into .venv (a minute or two the first time)"
	@$(PIP_INSTALL) --require-hashes -r deploy/locks/app.txt
	@$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

# `up` does the set-up itself where something is missing.
up: $(STAMP)
	@exec $(BIN)/adapterloop up $(KIND)

setup: $(STAMP)
	@$(BIN)/adapterloop setup $(KIND)

check: $(STAMP)
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && echo "[check] format and lint: ok"
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(STAMP)
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix --quiet .

# One call, so that its last line tells of all; the real vLLM starts when the rest is done.
test: setup
	@$(BIN)/pytest tests/unit tests/integration tests/acceptance

test-fast: $(STAMP)
	@$(BIN)/pytest tests/unit

demo: setup
	@exec $(BIN)/adapterloop demo $(KIND) $(if $(QUICK),--quick) $(if $(CONTROL),--control)

bench: $(STAMP)
	@$(BIN)/python -m bench.serving_cpu

figures: $(STAMP)
	@$(BIN)/python -m bench.figures $(or $(PART),adapters)

UV_COMPILE := $(UV) pip compile -q --no-annotate --no-emit-index-url --generate-hashes \
	--python-version 3.11 --python-platform linux --custom-compile-command 'make lock'

# torch's CPU build and llama.cpp are pinned by hand in deploy/locks/torch-cpu.txt and llamacpp.txt.
lock:
	@$(UV_COMPILE) pyproject.toml deploy/locks/torch.in --extra guard --extra trainer --extra postgres --extra redis --extra s3 \
		--group pyproject.toml:dev --overrides deploy/locks/app-overrides.in -o deploy/locks/app.txt
	@$(UV_COMPILE) deploy/locks/worker-cpu.in deploy/locks/torch.in \
		--overrides deploy/locks/worker-overrides.in -o deploy/locks/worker-cpu.txt
	@$(UV_COMPILE) deploy/locks/llamacpp-tools.in -o deploy/locks/llamacpp-tools.txt

clean:
	@rm -rf .venv .venv-worker .venv-llamacpp build *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache
