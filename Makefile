# The README's two commands, and their parts. Each sets up everything that it needs.
# The newest Python that works: the PATH may have a version manager's shim for a version that is switched off.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, venv' >/dev/null 2>&1 && echo $$python && break; done)
# The oldest Python that works: the oldest supported dependencies have no wheels for newer ones.
OLDEST_PYTHON ?= $(shell for python in python3.11 python3.12 $(PYTHON); do \
	$$python -c 'import ensurepip, venv' >/dev/null 2>&1 && echo $$python && break; done)
# One more than the cores: the tests mostly wait for processes that they start.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
# Containers often set this. Then each of the hundreds of processes that the tests start compiles the package again, and
# each worker of pytest rewrites each module of the tests: 12 s of CPU per worker.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
OLD := .venvs/oldest/bin
OLDEST_TESTS := $(addprefix tests/,models/test_checkout.py test_config.py ecosystem/test_frameworks.py reader/test_reader.py \
	capture/test_routes.py capture/test_middleware.py pipeline/test_pipeline.py)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit benchmarks coverage oldest pythons docs fuzz mutation format clean
MINUTES ?= 10
SEED ?= 1
MUTANTS ?= 60

help:  ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

demo: .venv/ready  ## a shop, a proxy and the sandbox on this machine: checkouts, and a page of what arrived; ONCE=1 ends by itself
	@$(BIN)/butter-middleware demo $(if $(ONCE),--once)

test: .venv/ready  ## everything that is checked, but the benchmarks in small
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -k -j 2 unit types oldest docs || \
		{ echo 'Failed. Of unit, types, oldest and docs, the lines above with *** name which.' >&2; exit 1; }

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Node's garbage collector gets more space (MB) for new objects, so pyright takes a fifth less time.
types: .venv/ready
	$(BIN)/mypy
	NODE_OPTIONS=--max-semi-space-size=256 $(BIN)/pyright

unit: .venv/ready
	$(BIN)/python -m pytest --ignore=tests/test_benchmarks.py -n $(WORKERS) --dist loadfile --no-loadscope-reorder

benchmarks: .venv/ready  ## each benchmark, in small
	$(BIN)/python -m pytest tests/test_benchmarks.py

coverage: .venv/ready  ## all tests, and which lines they reach: some 15 minutes
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# Few examples for properties, as in `pythons`: `unit` tries all, and here only the dependencies differ.
oldest: .venvs/oldest/ready
	$(OLD)/python -m pytest -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning \
		--hypothesis-profile quick $(OLDEST_TESTS)

pythons:  ## the core's tests on each Python, 3.11 to 3.14, that this machine has; says which it does not have
	@WORKERS=$(WORKERS) .ci/pythons

docs: .venv/ready  ## build the documentation: build/docs/index.html
	$(BIN)/sphinx-build -W --keep-going -E -a -q -d build/doctrees docs build/docs

fuzz: .venv/ready  ## the property tests, with new examples for MINUTES=10
	$(BIN)/python benchmarks/fuzz.py --minutes $(MINUTES)

mutation: .venv/ready  ## small faults in the core, MUTANTS=60 of SEED=1: which do the tests notice?
	mkdir -p build
	$(BIN)/python benchmarks/mutation.py --seed $(SEED) --mutants $(MUTANTS) --reach build/reach.json --results build/mutants.jsonl

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

.venvs/oldest/ready: pyproject.toml
	$(OLDEST_PYTHON) -m venv .venvs/oldest
	$(OLD)/python -m pip install --quiet --upgrade pip
	$(OLD)/python -m pip install --quiet --editable . --group oldest
	touch $@

clean:
	rm -rf .venv .venvs .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
