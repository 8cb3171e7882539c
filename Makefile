# make quickstart   train the small three-task model on the built-in scenes; installs what is missing
# make test         style gates, then every test
# make check        the style gates alone, in seconds
# make demo-photo IMAGE=cat.jpg
#                   caption any picture with real pre-trained parts, and show what it was written
#                   from; the first time fetches them and trains what joins them, a quarter of an hour
# make clean        remove the virtual environment and caches; runs/ stays
#
# make quickstart PYTHON=python3.12 chooses the Python that makes the virtual environment.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := quickstart

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE := $(or $(VLM_JAX_CACHE),$(HOME)/.cache/vlm_jax)

.PHONY: quickstart test check lint clean demo-photo

quickstart: $(VENV)/installed-core
	$(BIN)/python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

# Each line goes on where it was interrupted, or has nothing left to do.
DEMO := runs/demo-photo
IMAGE ?=
demo-photo: $(VENV)/installed-kit
	@$(BIN)/python -m vlm_jax.memory.demo --check --image='$(IMAGE)'
	$(BIN)/python -m vlm_jax.data.prepare kit --part efficientnet_lite0 smollm2 imagenet_names
	$(BIN)/python -m vlm_jax.data.prepare emoji --vendor openmoji --size 224
	$(BIN)/python launch.py --config=configs/captioning/kit_smallcap.py:demo --workdir=$(DEMO)/captioner
	$(BIN)/python -m vlm_jax.memory.classes --memory=$(DEMO)/classes
	$(BIN)/python -m vlm_jax.memory.demo --image='$(IMAGE)' --workdir=$(DEMO)/captioner \
	  --memory=$(DEMO)/classes

test: lint
	$(BIN)/python -m pytest

check: lint
	$(BIN)/python -m pytest --numprocesses=0 --durations=0 --durations-min=5 tests/test_style.py

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info $(CACHE)/xla
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed-core: EXTRAS :=
$(VENV)/installed-kit: EXTRAS := [kit]
# An oracle of which one file is read; its dependencies pin libraries to years ago.
$(VENV)/installed-test: ALONE := open-flamingo==2.0.1
$(VENV)/installed-test: EXTRAS := [data,test]

# pip in one line per package at most, so that a person sees it move; all of it is in install.log.
$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing vlm_jax$(EXTRAS) into $(VENV), once; a few minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input -e '.$(EXTRAS)' 2>&1 \
	  | tee $(VENV)/install.log \
	  | awk '/^Collecting/ { printf "."; fflush() } \
	         /^Installing collected/ { printf " unpacking"; fflush() } END { print "" }' \
	  || { tail -n 20 $(VENV)/install.log >&2; \
	       echo "The installation failed; all of its output is in $(VENV)/install.log" >&2; exit 1; }
	@$(if $(ALONE),$(BIN)/python -m pip install --disable-pip-version-check --no-input -q --no-deps $(ALONE))
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null \
	  || { echo "There is no $(PYTHON) here; vlm_jax needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vlm_jax needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	       "name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
