# `make` alone lists what there is. Every target does its own set-up in .venv from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte-compiling a gigabyte of packages would take longer than anything here does with them.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# ... so each module is compiled when it is first used, and that must be kept.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help train test test-gpu lint bench-accuracy clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.train ## draw the synthetic set, shard it, train the small MSTAT, score it (8 minutes on 2 cores)
	$(BIN)/accelerate launch --config_file configs/accelerate/single.yaml launch/train.py

test: $(VENV)/.dev lint ## run all tests and the linters (15 minutes on 2 cores)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "not gpu"

test-gpu: $(VENV)/.dev ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-accuracy: $(VENV)/.train ## train on three fresh synthetic sets and record the scores in benchmarks/
	$(BIN)/python benchmarks/accuracy.py

clean: ## remove the environment; data and runs stay
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mstat needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.train
