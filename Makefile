# Everything a person or CI does with the project, by name: `make help`.
# `setup` runs by itself when the lock files, pyproject.toml or the virtual environment change.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup up down status demo test sim mutants chaos chaos-control check format proto bench bench-check catch-up lock clean

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synod-setup
DIR ?= .synod
NODES ?= 3
AGENTS ?= 2
ARGS ?=
MINUTES ?= 5
SEED ?=
CASE ?=
RUNS ?= 200

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install what is needed, pinned and checked by hash (runs by itself)

$(STAMP): requirements.lock requirements-dev.lock pyproject.toml scripts/setup
	@sh scripts/setup $(VENV)
	@touch $@

up: $(STAMP) ## Start a local cluster in the foreground: NODES=3 AGENTS=2 DIR=.synod
	@$(BIN)/synod up --nodes $(NODES) --agents $(AGENTS) --dir $(DIR) $(ARGS)

down: $(STAMP) ## Stop the cluster of DIR
	@$(BIN)/synod down --dir $(DIR)

status: $(STAMP) ## Show the nodes of DIR's cluster
	@$(BIN)/synod status --dir $(DIR)

demo: $(STAMP) ## Three nodes, three agents, two schedulers, one killed leader: does every promise hold?
	@$(BIN)/python scripts/demo.py $(ARGS)

test: $(STAMP) ## Run all tests; a skipped test is a failure
	@$(BIN)/pytest $(ARGS)

sim: $(STAMP) ## Simulate whole clusters on virtual time: RUNS=200, or one SEED=
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED),--runs $(RUNS)) $(ARGS)

mutants: $(STAMP) ## Plant protocol bugs in the simulated clusters, and show the run that catches each
	@$(BIN)/python -m tests.sim.mutants $(ARGS)

chaos: $(STAMP) ## Harm real nodes, judge what their clients saw, leave a report: MINUTES=5 SEED= NODES=3
	@$(BIN)/python -m synod.chaos --minutes $(MINUTES) --nodes $(NODES) --seed '$(SEED)' $(ARGS)

chaos-control: $(STAMP) ## Kill agents, schedulers, the API and nodes while services are updated: MINUTES=5 SEED=
	@$(BIN)/python -m synod.chaos.control --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

check: $(STAMP) ## Format, lint, strict types, import contracts, purity, committed stubs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/purity.py
	$(BIN)/python scripts/proto --check

format: $(STAMP) ## Format, and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

proto: $(STAMP) ## Generate the stubs from protos/ again
	@$(BIN)/python scripts/proto

bench: $(STAMP) ## Measure beside etcd in the same run; CASE=lone measures one row
	@$(BIN)/python -m scripts.bench $(CASE) $(ARGS)

catch-up: $(STAMP) ## Measure what a node a million revisions behind, and compaction, cost the cluster
	@$(BIN)/python -m scripts.catch_up $(ARGS)

bench-check: $(STAMP) ## Count the instructions an offer runs, and compare; ARGS=--keep keeps the new counts
	@$(BIN)/python -m scripts.bench.check $(ARGS)

lock: ## Pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile pyproject.toml --upgrade --python-version 3.11 --generate-hashes --quiet \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock
	uv pip compile pyproject.toml --group dev --upgrade --python-version 3.11 --generate-hashes --quiet \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements-dev.lock

clean: ## Remove the virtual environment and the tools' caches (not the clusters' data)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
