# Everything a newcomer or CI needs. Each target does its own set-up: a virtual environment in .venv, nothing outside it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test check bench format stubs clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

stubs: $(STAMP)
	$(BIN)/python scripts/generate_stubs.py

test: $(STAMP)
	$(BIN)/python -m pytest tests

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
