# Two commands do everything from a bare machine: `make book` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
L ?=

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p)),$(p))))
VENV := .venv
PY := $(VENV)/bin/python
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
SITE := _build/html
SOURCES := $(shell find index.md book notebooks data/benchmarks.json data/manifest.json data/runs requirements.lock _config.yml _toc.yml pyproject.toml mmscratch/kit \
	-type f -not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' 2>/dev/null)

.PHONY: help setup book test pdf serve lab lesson export data checkpoints seeds rivals bench ledger sbom lock lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## create .venv from requirements.lock (book and test do it by themselves)

$(LOCKED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed, found $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

book: $(SITE)/.complete ## build the site; fails on any warning, missing or empty page
	@$(PY) -m mmscratch.kit.pages

$(SITE)/.complete: $(READY) $(SOURCES)
	@$(PY) -m mmscratch.kit.pages --build

test: $(READY) ## run unit tests and every notebook; L=04 for one lesson
	@$(PY) -m mmscratch.kit.system chromium tesseract
ifeq ($(L),)
	$(PY) -m pytest -n 2 tests notebooks
else
	$(PY) -m pytest notebooks/$(L)_*.ipynb tests -k "ipynb or $(L)_"
endif

pdf: book ## print the whole book into one PDF, with Chromium
	@$(PY) -m mmscratch.kit.system chromium
	@$(PY) -m mmscratch.kit.pdf

serve: book ## build, then serve the site on http://localhost:8000
	$(PY) -m http.server --directory $(SITE) 8000

lab: $(READY) ## open JupyterLab on the notebooks
	$(VENV)/bin/jupyter lab notebooks

lesson: $(READY) ## execute one lesson and store its outputs: make lesson L=04
	@test -n "$(L)" || { echo "Say which lesson: make lesson L=04"; exit 1; }
	$(PY) -m mmscratch.kit.lesson $(L) --threads 2

export: $(READY) ## collect the export cells of all notebooks into mmscratch/*.py
	$(PY) -m mmscratch.kit.export

data: $(READY) ## rebuild the pictures and the speech in data/ from their sources (readers never need this)
	@$(PY) -m mmscratch.kit.system noto-emoji espeak-ng
	$(PY) -m mmscratch.kit.make_data

checkpoints: $(READY) ## retrain what ships in data/checkpoints
	$(PY) -m mmscratch.kit.checkpoints

seeds: $(READY) ## run one lesson under five seeds and store its figures: make seeds L=04
	@test -n "$(L)" || { echo "Say which lesson: make seeds L=04"; exit 1; }
	$(PY) -m mmscratch.kit.runs $(L)

rivals: $(READY) ## train the libraries' models by the lessons' own recipes; L=04 for one lesson
	$(PY) -m mmscratch.kit.rivals $(L)

bench: $(READY) ## measure our primitives against their references, side by side
	$(PY) -m mmscratch.kit.bench

ledger: $(READY) ## compare all primitives with their references and fill the parity ledger
	$(PY) -m mmscratch.kit.ledger

sbom: $(READY) ## write sbom.cdx.json, the bill of materials: packages and data, licences and hashes
	$(PY) -m mmscratch.kit.licences sbom.cdx.json

lock: $(READY) ## write requirements.lock from pyproject.toml; U=1 takes the newest releases
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-annotate --quiet $(if $(U),--upgrade) -o requirements.lock

lint: $(READY) ## ruff on the package, the tests and the notebooks
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean: ## remove what was built and installed here
	rm -rf $(VENV) _build .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
