# make train, make test: set-up included. A second run finds the set-up done and starts at once.
PYTHON ?= python3
# Flags for train: make train ARGS="--model=mlp --epochs=3"
ARGS ?=
# Processes that run tests at the same time; each one needs about 2 GiB.
JOBS ?= 2
# Extras of setup.cfg to install; on a machine with an NVIDIA GPU: make train EXTRAS=test,gpu
# All of acceptance needs Ray, and root for a Slurm of its own: make acceptance EXTRAS=test,ray
EXTRAS ?= test

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRAS)
RANGE := 3.11, 3.12 or 3.13

.PHONY: help train test lint acceptance peers clean

help:
	@echo "make train       train on the data set that comes with it (ARGS=\"--flag=value ...\")"
	@echo "make test        every test, at most 12 minutes on 2 cores"
	@echo "make lint        style and types"
	@echo "make acceptance  the full matrices, resumable, written to docs/acceptance.json"
	@echo "make peers       Mirrorline against Keras and PyTorch, under 30 minutes, written to docs/measured/peers.md (ARGS=\"--quick\")"
	@echo "make clean       remove what was set up and built; runs/ stays"

train: $(STAMP)
	$(BIN)/mirrorline train $(ARGS)

test: $(STAMP)
	-@$(BIN)/python -m tests.browser.chromium >/dev/null
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

acceptance: $(STAMP)
	$(BIN)/python -m tests.acceptance

peers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[peers]'
	$(BIN)/python -m benchmarks.peers $(ARGS)

$(STAMP): setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	  { echo "no $(PYTHON) here: install Python $(RANGE), or name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python $(RANGE) is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1); name another one: make PYTHON=python3.11" >&2; \
	    exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
