# `make demo` and `make test` set up all they need in .venv and run. Nothing else is required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SLOW_STAMP := $(VENV)/.installed-slow
BENCHMARKS := head ranking step collector scaling loading

.PHONY: demo study bench docs test test-slow test-lowest test-extras lint clean help

help:  ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt 'pip>=25.1' hatchling editables
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e . --group dev
	@touch $@

demo: $(STAMP)  ## Set up, then run the whole pipeline on the embedded toy world
	$(BIN)/tabom run toy-demo
	@echo "every arm swept over its settings, gain against forgetting: docs/results.md"

study: $(STAMP)  ## The larger study behind docs/results.md (ten seeds; 20 to 30 minutes on two free cores)
	$(BIN)/tabom run toy-study

bench: $(STAMP)  ## Measure speed and memory against the usual way (about 25 minutes on two free cores)
	set -e; export OMP_NUM_THREADS=1; for name in $(BENCHMARKS); do \
	  echo "$$name"; $(BIN)/python benchmarks/$$name.py; done
	$(BIN)/python benchmarks/tables.py

test: $(STAMP) lint  ## Set up, then lint, type check and test (a few minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

$(SLOW_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --group slow
	@touch $@

docs: $(SLOW_STAMP)  ## Build the site in build/site; a warning is an error
	$(BIN)/mkdocs build --strict

test-slow: $(SLOW_STAMP)  ## The long tests: killed runs, sharded training, whole tasks of lm-eval
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-lowest:  ## Install the lowest versions that pyproject.toml admits (in .lowest), run toy-quick and LLaDA2's parity
	$(PYTHON) -m venv .lowest
	.lowest/bin/python -m pip install -q uv
	.lowest/bin/uv pip install -q -p .lowest/bin/python --resolution lowest-direct .
	.lowest/bin/tabom run toy-quick --overwrite --output_dir .lowest/toy-quick
	.lowest/bin/uv pip install -q -p .lowest/bin/python pytest
	.lowest/bin/python -m pytest -q tests/parity -k "llada2 or lladamoe or rnd1 or sdar"

test-extras:  ## Install each extra alone, on the lowest and the newest versions, and use it (downloads much)
	PYTHON=$(PYTHON) .ci/extras

lint: $(STAMP)  ## Format, lint, types and import rows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:  ## Remove the environment and all caches
	rm -rf $(VENV) .lowest .extras build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
