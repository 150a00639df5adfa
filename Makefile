# make demo and make test each set up what they need; nothing but the package registry is asked.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup check bench clean

demo: setup  ## the whole job on drawn data, about two minutes
	$(BIN)/distcorr run --preset smoke --run runs/smoke
	@echo "The report is in runs/smoke/report: tables.json, a CSV per table, figure3.png to figure5.png"

test: setup  ## all tests; DISTCORR_DATA=FOLDER adds those on real photographs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

setup: .venv/installed  ## .venv with everything at the versions of constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

check: setup  ## lint, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## ratios against named peers, alone on the machine; DISTCORR_DATA adds features and alignment
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/sift.py
ifdef DISTCORR_DATA
	$(BIN)/python benchmarks/features.py $(DISTCORR_DATA)/data/voc-photos \
		$(DISTCORR_DATA)/weights/bvlc_alexnet_conv1-5.npz
	$(BIN)/python benchmarks/alignment.py $(DISTCORR_DATA)/data/voc-photos \
		$(DISTCORR_DATA)/weights/bvlc_alexnet_conv1-5.npz
endif

clean:
	rm -rf .venv runs build .mypy_cache .ruff_cache .pytest_cache
