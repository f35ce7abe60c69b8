# `make demo` and `make test` install all they need into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OUT ?= demo_output
# Of `make localiser`: where bank and trainings go, how long they train, processes that paint.
RUNS ?= $(CURDIR)/runs/localiser
ITERATIONS ?= 2400
PROCESSES ?= 2

.PHONY: demo test test-slow lint bench localiser install clean

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

# Trains the vertebra localiser's two networks from nothing and puts them into its bundle.
TRAIN := cd bundles/vertebra_localiser && $(CURDIR)/$(BIN)/python -m monai.bundle run
FILES := --meta_file configs/metadata.json --logging_file configs/logging.conf --cache_dir $(RUNS)/bank

localiser: install
	$(TRAIN) drawing $(FILES) --processes $(PROCESSES) \
	  --config_file "['configs/common.yaml','configs/bank.yaml']"
	$(TRAIN) drawing $(FILES) --processes $(PROCESSES) \
	  --config_file "['configs/common.yaml','configs/bank.yaml','configs/refiner.yaml']"
	$(TRAIN) training $(FILES) --iterations $(ITERATIONS) --resume True --output_dir $(RUNS)/locator \
	  --config_file "['configs/common.yaml','configs/train.yaml']"
	$(TRAIN) training $(FILES) --iterations $(ITERATIONS) --resume True --output_dir $(RUNS)/refiner \
	  --config_file "['configs/common.yaml','configs/train.yaml','configs/refiner.yaml']"
	$(BIN)/python -c "from monai_vfx.bundle_parts.localiser_training import publish; \
	  publish({'locator': '$(RUNS)/locator', 'refiner': '$(RUNS)/refiner'})"

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
