# Millstream: what a developer runs. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.8
SDK_WHEEL := server/src/millstream_server/_wheels/millstream_sdk-0.2.0-py3-none-any.whl
SDK_SOURCES := $(shell find sdk/src -name '*.py') sdk/pyproject.toml sdk/README.md
JOBS ?= 3

# Without bytecode every start of a process compiles again: it would make each command here slower.
unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup lock lint format types imports docs test test-python wheels clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready $(SDK_WHEEL) ## make .venv with the command millstream and every tool the checks need

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.ready: requirements-dev.lock sdk/pyproject.toml server/pyproject.toml | $(UV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e sdk -e server
	@touch $@

# The server ships the SDK's wheel: `millstream build` adds it to every package's lock. Its bytes depend on its sources alone.
$(SDK_WHEEL): $(SDK_SOURCES) | $(VENV)/.ready
	@mkdir -p $(@D) && rm -f $(@D)/*.whl
	cd sdk && ../$(BIN)/python -m hatchling build -t wheel -d ../$(@D)
	@touch $@

lock: | $(UV) ## write the locks anew (names, versions, hashes; no address)
	sed '/millstream-sdk/d' server/pyproject.toml > $(VENV)/pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  --extra mlflow $(VENV)/pyproject.toml sdk/pyproject.toml requirements-dev.in -o requirements-dev.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  deploy/mlflow/requirements.in -o deploy/mlflow/requirements.lock

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## write every file in the one format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy sdk/src server/src
	$(BIN)/mypy chaos benchmarks

imports: setup ## who may import whom
	$(BIN)/lint-imports

wheels: setup ## build both distributions into dist/
	rm -rf dist && mkdir dist
	cd sdk && ../$(BIN)/python -m hatchling build -t wheel -d ../dist
	cd server && ../$(BIN)/python -m hatchling build -t wheel -d ../dist

test: setup test-java test-python ## every test of the suite; -j2 runs those of the Java client beside the others

# Without the flags of this make: some tests run make themselves.
test-python: setup ## every test but those of the Java client
	env -u MAKEFLAGS -u MFLAGS $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder --durations=25

clean: ## remove what builds and runs left in this folder
	rm -rf dist .demo .bench .chaos .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

include $(wildcard make/*.mk)
