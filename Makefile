# Needs make and Python 3.11 or newer; everything else is installed into .venv, pinned and hashed.
#   make serve ARGS="--listen 127.0.0.1:8080"      the data is in ./ullage-data
#   make quick AREA=cleanup                        lint, and the tests in tests/cleanup
#   make test PYTEST_ARGS="-k upload -x"
#   make … PYTHON=python3.12                       when `python3` is too old

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
UV ?= uv
# Tests run in this many processes; a file stays in one.
JOBS ?= 2
# Only from the command line: what happens to be in the environment must not choose or tag anything.
AREA =
VERSION =
ifneq ($(AREA),)
ifeq ($(wildcard tests/$(AREA)),)
$(error there is no tests/$(AREA); areas: $(filter-out __pycache__,$(notdir $(patsubst %/,%,$(wildcard tests/*/)))))
endif
endif

VENV := .venv
AUDIT := .venv-audit
BIN := $(VENV)/bin
PIP := python -m pip --disable-pip-version-check --quiet

SHELL := /bin/sh
.DELETE_ON_ERROR:
.PHONY: help serve install quick test lint format bench audit release prove lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

serve: $(VENV)/runtime.stamp ## install what is needed and serve on 127.0.0.1:5000 (ARGS=…)
	@$(BIN)/ullage serve $(ARGS)

install: $(VENV)/runtime.stamp ## leave the command at .venv/bin/ullage
	@echo "ready: $(BIN)/ullage"

# No server or program of other people; of everything only what is quick, and no area that starts and
# kills whole servers all the time. Without compiled modules, which some environments forbid, each
# process would compile all tests again.
QUICK = not (postgresql or client or browser or slow$(if $(AREA),, or thorough))
LEFT_OUT = $(if $(AREA),,$(addprefix --ignore tests/,access clients crash peers prove tls))
quick: lint ## lint, types, quick tests, in a minute (AREA=cleanup: of one)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "$(QUICK)" \
		--durations 5 --durations-min 2 $(PYTEST_ARGS) $(strip $(LEFT_OUT) tests/$(AREA))

test: lint ## everything: lint, format, types, tests (PYTEST_ARGS=…)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/dev.stamp ## let ruff format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/runtime.stamp ## compare with Debian's docker-registry (docs/benchmarks.md)
	$(BIN)/python -m bench $(ARGS)

# --strict: a package that cannot be looked up is a failure, and never taken for a safe one.
audit: $(AUDIT)/audit.stamp ## are there known weaknesses in what is pinned?
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes \
		-r constraints.txt -r constraints-dev.txt -r constraints-audit.txt -r constraints-package.txt

release: $(VENV)/runtime.stamp ## check, build, say what to publish (VERSION=0.2.0: tag it)
	@$(BIN)/python -m tools.release $(if $(VERSION),--version "$(VERSION)")

# --- the release gates in full (docs/proof.md); goes on where an interrupted run was
GATE ?=
COUNT ?=
prove: $(VENV)/dev.stamp ## the release gates in full (GATE=G4 COUNT=5000)
	PYTHONPATH=src $(BIN)/python -m tests.prove $(GATE:%=--gate %) $(COUNT:%=--count %)

# The development set is solved under the runtime set, so that both fit into one environment.
# LOCK_ARGS=--upgrade takes what is newest.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate $(LOCK_ARGS)
lock: ## pin again after a change of dependencies (needs uv)
	$(LOCK) pyproject.toml --group build --extra cloud --extra postgres --extra tui \
		--output-file constraints.txt
	$(LOCK) pyproject.toml --group build --all-extras --constraints constraints.txt \
		--output-file constraints-dev.txt
	$(LOCK) --group audit --output-file constraints-audit.txt
	$(LOCK) --group package --output-file constraints-package.txt

clean: ## remove what make and the tools made; never the data
	rm -rf $(VENV) $(AUDIT) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './ullage-data/*' -prune -exec rm -rf {} +

# A stamp is newer than what it was made from, so a second run installs nothing.
# --no-compile: what is imported gets compiled then; the rest would double the time of the first `make serve`.
$(VENV)/created.stamp $(AUDIT)/created.stamp:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "Ullage needs Python 3.11 or newer, and there is no '$(PYTHON)' here. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Ullage needs Python 3.11 or newer; $(PYTHON) is %d.%d.%d. Name another: make PYTHON=python3.11" % sys.version_info[:3])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) cannot make virtual environments (no ensurepip). On Debian or Ubuntu: apt-get install python%d.%d-venv" % sys.version_info[:2])'
	@rm -rf $(@D)
	@echo "making $(@D) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(@D)
	@touch $@

$(VENV)/runtime.stamp: constraints.txt pyproject.toml $(VENV)/created.stamp
	@echo "installing what constraints.txt pins"
	@$(BIN)/$(PIP) install --no-compile --require-hashes -r constraints.txt
	@$(BIN)/$(PIP) install --no-compile --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: constraints-dev.txt $(VENV)/runtime.stamp
	@echo "installing what constraints-dev.txt pins"
	@$(BIN)/$(PIP) install --no-compile --require-hashes -r constraints-dev.txt
	@touch $@

$(AUDIT)/audit.stamp: constraints-audit.txt $(AUDIT)/created.stamp
	@echo "installing what constraints-audit.txt pins"
	@$(AUDIT)/bin/$(PIP) install --require-hashes -r constraints-audit.txt
	@touch $@
