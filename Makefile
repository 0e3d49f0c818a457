# Needs make and Python 3.11 or newer; everything else is installed into .venv, pinned and hashed.
#   make serve ARGS="--listen 127.0.0.1:8080"      make test PYTEST_ARGS="-k upload -x"
#   make … PYTHON=python3.12                       when `python3` is too old

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
UV ?= uv
# Tests run in this many processes; a file stays in one.
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

SHELL := /bin/sh
.DELETE_ON_ERROR:
.PHONY: help serve install test lint format bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

serve: $(VENV)/runtime.stamp ## install what is needed, then serve on 127.0.0.1:5000 with data in ./ullage-data (ARGS=…)
	@$(BIN)/ullage serve $(ARGS)

install: $(VENV)/runtime.stamp ## leave the command at .venv/bin/ullage
	@echo "ready: $(BIN)/ullage"

test: lint ## everything: lint, format, types, tests (PYTEST_ARGS=…)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/dev.stamp ## let ruff format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/runtime.stamp ## compare with Debian's docker-registry (ARGS=…; docs/benchmarks.md says what it needs)
	$(BIN)/python -m bench $(ARGS)

# The development set is solved under the runtime set, so that both fit into one environment.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml --group build
lock: ## pin again after a change of dependencies in pyproject.toml (needs uv; LOCK_ARGS=--upgrade)
	$(LOCK) $(LOCK_ARGS) --extra postgres --output-file constraints.txt
	$(LOCK) $(LOCK_ARGS) --all-extras --constraints constraints.txt --output-file constraints-dev.txt

clean: ## remove what make and the tools made; never the data
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './ullage-data/*' -prune -exec rm -rf {} +

# A stamp is newer than what it was made from, so a second run installs nothing.
# --no-compile: what is imported gets compiled then; the rest would double the time of the first `make serve`.
$(VENV)/created.stamp:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "Ullage needs Python 3.11 or newer, and there is no '$(PYTHON)' here. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Ullage needs Python 3.11 or newer; $(PYTHON) is %d.%d.%d. Name another: make PYTHON=python3.11" % sys.version_info[:3])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) cannot make virtual environments (no ensurepip). On Debian or Ubuntu: apt-get install python%d.%d-venv" % sys.version_info[:2])'
	@rm -rf $(VENV)
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/runtime.stamp: constraints.txt pyproject.toml $(VENV)/created.stamp
	@echo "installing what constraints.txt pins"
	@$(PIP) install --no-compile --require-hashes -r constraints.txt
	@$(PIP) install --no-compile --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: constraints-dev.txt $(VENV)/runtime.stamp
	@echo "installing what constraints-dev.txt pins"
	@$(PIP) install --no-compile --require-hashes -r constraints-dev.txt
	@touch $@
