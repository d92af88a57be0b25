# Everything runs in .venv, which the first target that needs it sets up.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install train test test-faults check format bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

install: .venv/installed ## set up .venv with the pinned packages and the project

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: install ## the main job: from Python's standard library to a trained gpt_nano
	$(BIN)/pretrain train

test: install ## the tests, five minutes at most
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-faults: install ## the whole fault suite
	$(BIN)/python -m pytest -q -m faults --override-ini addopts='--strict-markers --strict-config --import-mode=importlib'

check: install ## lint, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv-peers/installed: scripts/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement scripts/peers.txt
	touch $@

bench: install .venv-peers/installed ## the benchmarks, against peers in an environment of their own
	for script in scripts/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean: ## remove .venv and caches; data/ and runs/ stay
	rm -rf .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
