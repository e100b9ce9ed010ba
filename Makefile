# Needs only Python 3.11 or newer, pip and make.  PYTHON=python3.12 chooses another interpreter; ARGS="..." is passed on.
PYTHON ?= python3
ARGS ?=
WORKERS ?= auto

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
export PYTHON
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# A stamp carries a checksum of everything that decides what is installed and is written last,
# so a finished environment starts at once and an unfinished or outdated one is completed.
VENV := .venv
PEERS := .venv-peers
KEY := $(shell { pwd; cat pyproject.toml constraints.txt scripts/environment.sh; } | cksum | cut -d ' ' -f 1)
PEERS_KEY := $(shell { pwd; cat pyproject.toml constraints-peers.txt scripts/environment.sh; } | cksum | cut -d ' ' -f 1)
BASE_STAMP := $(VENV)/.base-$(KEY)
DEV_STAMP := $(VENV)/.dev-$(KEY)
DOCS_STAMP := $(VENV)/.docs-$(KEY)
PEERS_STAMP := $(PEERS)/.peers-$(PEERS_KEY)
RUN := $(VENV)/bin/python

# Two pytest workers share the cores; more threads inside each would only make them wait for one another.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test lint types tests format bench fuzz bench-peers bench-instruments bench-worth docs clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | while IFS=@ read -r name text; do printf '%-24s %s\n' "$$name" "$$text"; done

demo: $(BASE_STAMP) ## restore an example image and write its report
	@$(VENV)/bin/retrodict demo $(ARGS)

test: lint types tests ## lint, types and tests: what continuous integration runs

lint: $(DEV_STAMP) ## ruff: rules and formatting
	@$(RUN) -m ruff check -q .
	@$(RUN) -m ruff format -q --check .

types: $(DEV_STAMP) ## pyright
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(RUN) -m pyright

tests: $(DEV_STAMP) ## pytest alone, for example make tests ARGS="-k process"
	@$(ONE_THREAD) $(RUN) -m pytest -n $(WORKERS) --maxprocesses 4 $(ARGS)

format: $(DEV_STAMP) ## let ruff mend what it can
	@$(RUN) -m ruff check -q --fix .
	@$(RUN) -m ruff format -q .

bench: $(DEV_STAMP) ## measure speed and accuracy
	@$(RUN) benchmarks/run.py $(ARGS)

fuzz: $(DEV_STAMP) ## 3,000 damaged files, records and command lines, with a table of how they end
	@$(ONE_THREAD) $(RUN) -W ignore benchmarks/fuzz.py --save $(ARGS)

bench-peers: $(PEERS_STAMP) ## compare with diffusers, azula and deepinv, in an environment of its own
	@$(PEERS)/bin/python benchmarks/peers/run.py $(ARGS)

bench-instruments: $(DEV_STAMP) ## one network against specialists of equal budget (hours): ARGS="OUT --steps 4000"
	@$(RUN) benchmarks/instruments.py $(ARGS)

bench-worth: $(DEV_STAMP) ## the ensemble against other error bars of equal budget (hours): ARGS="OUT --steps 4000"
	@$(RUN) benchmarks/worth.py $(ARGS)

docs: $(DOCS_STAMP) ## build the documentation into docs/_build/html
	@$(RUN) -m sphinx -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove what was built, environments included
	@rm -rf $(VENV) $(PEERS) docs/_build docs/api build dist .pytest_cache .ruff_cache

$(BASE_STAMP):
	@rm -f $(VENV)/.base-* $(VENV)/.dev-* $(VENV)/.docs-*
	@scripts/environment.sh $(VENV) constraints.txt -e .
	@touch $@

$(DEV_STAMP): $(BASE_STAMP)
	@scripts/environment.sh $(VENV) constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_STAMP): $(BASE_STAMP)
	@scripts/environment.sh $(VENV) constraints.txt -e '.[docs]'
	@touch $@

$(PEERS_STAMP):
	@rm -f $(PEERS)/.peers-*
	@scripts/environment.sh $(PEERS) constraints-peers.txt diffusers azula deepinv -e .
	@touch $@
