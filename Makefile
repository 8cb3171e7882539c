# make quickstart   train the small three-task model on the built-in scenes; installs what is missing
# make test         style gates, then every test
# make check        the style gates alone, in seconds
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

.PHONY: quickstart test check lint clean

quickstart: $(VENV)/installed-core
	$(BIN)/python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

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
