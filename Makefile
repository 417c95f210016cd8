.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install -qq --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL) --constraint .ci/constraints.txt
# `pip install --group` needs pip 25.1, and a new environment comes with an older one.
NEW_PIP = $(INSTALL) --constraint .ci/constraints.txt --upgrade pip

# Recorded conversations, where they lie beside the repository (tests that need the full sets are skipped without them).
ifneq ($(wildcard ../shared/traces),)
export WARMLINE_DATA ?= $(abspath ../shared)
endif

.PHONY: help
help: ## what there is to make
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.installed ## a conversation, a crash, a resume, eight branches, and the bill (no key needed)
	@$(BIN)/warmline demo

.PHONY: serve
serve: $(VENV)/.installed-chat ## a chat in the browser (with no key, a simulated Claude answers)
	@$(BIN)/warmline serve

.PHONY: test
test: $(VENV)/.installed-dev ## lint, types, layers, tests with coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	rm -f .coverage .coverage.*
	$(BIN)/pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal --cov --cov-report= --durations=15
	$(BIN)/coverage report
	$(BIN)/coverage report --include='sessions/core/*,storage/*' --fail-under=100

.PHONY: lint
lint: $(VENV)/.installed-dev ## the same without the tests, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Environments of their own, made anew each time: what was the newest last month is not.
EXTRAS := chat,postgres,otel,examples
NEWEST := .venv-newest
LOWEST := .venv-lowest

.PHONY: test-newest
test-newest: ## types and tests with the newest release of everything (a fresh environment, no constraints)
	$(call test-in,$(NEWEST),)

.PHONY: test-lowest
test-lowest: ## types and tests with the lowest releases that pyproject.toml allows (a fresh environment)
	mkdir -p build
	$(PYTHON) .ci/lowest.py pyproject.toml > build/lowest.txt
	$(call test-in,$(LOWEST),--constraint build/lowest.txt)

define test-in
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python $(NEW_PIP)
	$(1)/bin/python $(INSTALL) $(2) --editable '.[$(EXTRAS)]' --group dev
	$(1)/bin/mypy
	$(1)/bin/pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal
endef

.PHONY: bench
bench: $(VENV)/.installed-dev ## what session.send costs beside the bare SDK call
	$(BIN)/python -m tests.benchmarks

.PHONY: bench-follow
bench-follow: $(VENV)/.installed-dev ## what it costs to follow turns, and that somebody could
	$(BIN)/python -m tests.benchmarks.follow

# Peers have pins of their own, so they live in an environment of their own.
TRACES ?= 48
PEERS := .venv-peers

.PHONY: bench-cost
bench-cost: $(PEERS)/.installed ## what recorded sessions and drawn workloads cost with us and with others (ALL=1: all of them, two hours)
	$(PEERS)/bin/python -m tests.benchmarks.cost $(if $(ALL),--scale 1,--traces $(TRACES)) --output build/bench-cost $(if $(DOCS),--docs)

.PHONY: bench-web
bench-web: $(VENV)/.installed-dev $(PEERS)/.installed ## 500 answers at once through one worker, beside the bare SDK and another back end; idle followers
	$(BIN)/python -m tests.benchmarks.web

PEERS_SPEED := .venv-peers-speed

.PHONY: bench-speed
bench-speed: $(PEERS_SPEED)/.installed ## what turns, loads, files and open sessions cost with us and with others (half an hour)
	$(PEERS_SPEED)/bin/python -m tests.benchmarks.speed --output build/bench-speed

.PHONY: clean
clean: ## remove the environment, caches and what the programs left
	rm -rf $(VENV) $(NEWEST) $(LOWEST) $(PEERS) $(PEERS_SPEED) build dist .coverage .coverage.* htmlcov .hypothesis .grimp_cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that exists is used as it is; only what is missing goes into it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "warmline needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml .ci/constraints.txt | $(BIN)/python
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-chat: pyproject.toml .ci/constraints.txt | $(BIN)/python
	@$(PIP) --editable '.[chat]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml .ci/constraints.txt | $(BIN)/python
	@$(BIN)/python $(NEW_PIP)
	@$(PIP) --editable '.[$(EXTRAS)]' --group dev
	@touch $@ $(VENV)/.installed $(VENV)/.installed-chat

$(PEERS)/.installed: pyproject.toml .ci/constraints-peers.txt
	@echo "setting up $(PEERS)"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python $(NEW_PIP)
	@$(PEERS)/bin/python $(INSTALL) --constraint .ci/constraints-peers.txt --editable . --group bench-cost
	@touch $@

$(PEERS_SPEED)/.installed: pyproject.toml .ci/constraints-peers-speed.txt
	@echo "setting up $(PEERS_SPEED)"
	@$(PYTHON) -m venv $(PEERS_SPEED)
	@$(PEERS_SPEED)/bin/python $(NEW_PIP)
	@$(PEERS_SPEED)/bin/python $(INSTALL) --constraint .ci/constraints-peers-speed.txt --editable . --group bench-speed
	@touch $@
