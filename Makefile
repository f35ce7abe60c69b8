# `make demo` and `make test` install all they need into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OUT ?= demo_output

.PHONY: demo test test-slow lint bench install clean

demo: install
	$(BIN)/vfx demo --out $(OUT)

test: lint
	$(BIN)/python -m pytest -q --cov --cov-report=term:skip-covered --cov-fail-under=85

test-slow: lint
	$(BIN)/python -m pytest -q -m slow

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/preprocess.py

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
