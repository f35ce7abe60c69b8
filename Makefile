# `make demo` and `make test` install all they need into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OUT ?= demo_output
# Of `make segmentation`: where bank and trainings go, how long they train, from which random numbers,
# processes that paint, threads of each training (None: as torch chooses).
RUNS ?= $(CURDIR)/runs/segmentation
ITERATIONS ?= 3200
SEED ?= 0
PROCESSES ?= 2
THREADS ?= None

# The experiment on simulated hospitals, see benchmarks/proof/README.md: SIZE=toy takes minutes, cpu hours.
SIZE ?= cpu
PROOF ?= runs/proof-$(SIZE)

.PHONY: demo test test-slow fuzz lint quality docs bench proof segmentation train-locator train-refiner install clean

demo: install
	$(BIN)/vfx demo --out $(OUT)

# Each file's tests stay in one process; a process for each core, so one thread of torch in each.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile \
	  --cov --cov-report=term:skip-covered --cov-fail-under=85

test-slow: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow -n auto --dist loadfile

# 20,000 damaged inputs; each must give a result or a code. COUNT=200 is quick, and so is one case:
# .venv/bin/python tests/support/fuzzing.py --case 123
COUNT ?= 20000
fuzz: install
	$(BIN)/python tests/support/fuzzing.py --count $(COUNT) --workers $(PROCESSES)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Counts lines, names files and functions that are too large.
quality: install
	$(BIN)/python -m benchmarks.quality

# Writes the table of codes into docs/inputs.md.
docs: install
	$(BIN)/python -m monai_vfx.workflows.codes_page docs/inputs.md

bench: install
	$(BIN)/python benchmarks/preprocess.py

proof: install
	$(BIN)/python benchmarks/proof/run.py $(PROOF) --size $(SIZE) --workers $(PROCESSES)

# Trains the vertebra segmentation's two networks from nothing and puts them into its bundle. On few
# cores they are quickest side by side, one thread each: make -j2 segmentation THREADS=1
TRAIN := cd bundles/vertebrae_ct_segmentation && $(CURDIR)/$(BIN)/python -m monai.bundle run
FILES := --meta_file configs/metadata.json --logging_file configs/logging.conf \
  --cache_dir $(RUNS)/bank --seed $(SEED)
REFINER := ,'configs/refiner.yaml'

segmentation: train-locator train-refiner
	$(BIN)/python -c "from monai_vfx.vertebrae.training.synthetic_training import publish; \
	  publish({'locator': '$(RUNS)/locator', 'refiner': '$(RUNS)/refiner'})"

train-refiner: LAST := $(REFINER)
train-locator train-refiner: train-%: install
	$(TRAIN) drawing $(FILES) --processes $(PROCESSES) \
	  --config_file "['configs/common.yaml','configs/bank.yaml'$(LAST)]"
	$(TRAIN) training $(FILES) --iterations $(ITERATIONS) --threads $(THREADS) --resume True \
	  --output_dir $(RUNS)/$* --config_file "['configs/common.yaml','configs/train.yaml'$(LAST)]"

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
