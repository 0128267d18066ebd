# Everything a newcomer or CI needs. Each target does its own set-up: a virtual environment in .venv, nothing outside it.
# PYTHON=… chooses an interpreter; ARGS=… goes to pytest, to the demo or to the benchmark.
BIN   := .venv/bin
STAMP := .venv/.installed
OWN   := $(wildcard coordinator agent_node scripts tests/support tests/typing benchmarks examples)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup check format stubs test chaos soak demo bench scale clean
.DEFAULT_GOAL := help

help:           ## Show this list
	@awk '/^[a-z]+:.*## / {name = $$1; sub(/.*## /, ""); sub(/:/, "", name); printf "  make %-8s %s\n", name, $$0}' Makefile

setup: $(STAMP) ## Create .venv with every command in .venv/bin; again after pyproject.toml changes

$(STAMP): pyproject.toml scripts/create_venv.sh
	@sh scripts/create_venv.sh .venv
	@echo "Installing Muster and its tools into .venv (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

check: setup    ## Format, lint, layers, types, stubs, protos: everything but the tests
	ruff format --check
	ruff check
	lint-imports --no-logo
	mypy $(OWN)
	python scripts/generate_stubs.py --check
	buf lint
	sh scripts/check_breaking.sh

format: setup   ## Format the code, and mend what the linter can mend
	ruff format
	ruff check --fix-only

stubs: setup    ## Generate the Python stubs from the protos
	python scripts/generate_stubs.py

test: setup     ## Run the tests: make test ARGS="tests/rules -x"
	python -m pytest $(ARGS)

chaos: setup    ## Kill, stop and cut off everything, and check that nothing is lost: make chaos SECONDS=180 SEED=1 JSON=chaos.json
	python -m tests.chaos --seconds $(or $(SECONDS),180) --seed $(or $(SEED),1) $(if $(JSON),--json $(JSON)) $(ARGS)

soak: setup     ## A day in ten minutes: make soak ARGS="--seconds 120 --json soak.json", or --leak coordinator, which must fail
	python -m tests.soak $(ARGS)

demo: setup     ## Run the demo on the project's own documents, or: make demo INPUT=folder
	$(if $(INPUT),INPUT='$(INPUT)' )python -m examples.demo $(ARGS)

bench: setup    ## Measure dispatch: make bench ARGS="--agents 50"
	muster bench dispatch $(ARGS)

scale: setup    ## Measure the core beside 100,000 lanes, keys and delayed tasks, and pages of a million keys of shared state
	python -m benchmarks.scale $(ARGS)
	python -m pytest tests/contract/test_state_scale.py -s --state-keys=1000000

clean:          ## Remove everything that the other targets made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
