# Two commands do all the set-up: `make demo` and `make test`. Both need only Python 3.11+, pip, venv and make.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/prep demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -rs

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests docs benchmarks
	$(BIN)/ruff format --check src tests docs benchmarks
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate_commands.py
	$(BIN)/python docs/generate_datasets.py

clean:
	rm -rf $(VENV) prep-demo

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
