# `make` alone lists what there is. Every target does its own set-up in .venv from a fresh clone.
PYTHON ?= python3
VENV := .venv
# With what rivals need: their torchvision, without its compiled part, would keep transformers from being imported.
RIVALS := .venv-rivals
BIN := $(VENV)/bin
# Byte-compiling a gigabyte of packages would take longer than anything here does with them.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# ... so each module is compiled when it is first used, and that must be kept.
unexport PYTHONDONTWRITEBYTECODE
# Two test processes, a file each at a time: files of launched runs, which take longest, come first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
PYTEST := CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: $(shell awk -F: '/^[a-z-]+:/{print $$1}' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+.*:.*## /{sub(/:.*/, "", $$1); sub(/%/, "NAME", $$1); printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.train ## draw the synthetic set, shard it, train the small MSTAT, score it (8 minutes on 2 cores)
	$(BIN)/accelerate launch --config_file configs/accelerate/single.yaml launch/train.py

test-fast: $(VENV)/.dev lint ## the linters and the tests of the edit loop (2 minutes on 2 cores)
	$(PYTEST) -m "not gpu and not soak and not launched and not slow" $(PARALLEL)

test: $(VENV)/.dev ## all tests, the linters and the API reference (15 minutes on 2 cores)
	$(MAKE) --no-print-directory -j 2 lint docs
	$(PYTEST) -m "not gpu and not soak" $(PARALLEL)

test-gpu: $(VENV)/.dev ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples

docs: $(VENV)/.dev ## the API reference, in build/docs; a warning is an error
	$(BIN)/python -W error docs/build_api.py build/docs

SOAK := --ignore tests/soak/test_container.py --ignore tests/soak/test_cluster.py
SOAK.long := tests/soak/test_kills.py --kills 100
SOAK.container := tests/soak/test_container.py
SOAK.cluster := tests/soak/test_cluster.py --faults 25
soak: $(VENV)/.dev ## every kind of parallelism, failure and host, 25 kills each; a record in benchmarks/ (an hour)
	$(PYTEST) -m soak --kills 25 --record soak $(SOAK)

soak-%: $(VENV)/.dev ## soak-long: 200 kills (hours); soak-container: Dockerfile's steps; soak-cluster: faults of a Slurm (root)
	$(PYTEST) -m soak $(SOAK.$*) --record $@

fuzz: $(VENV)/.dev ## mutated inputs of every kind: read right or refused in one line; a record in benchmarks/ (20 minutes)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m tests.fuzz --record

bench: ## all that is measured against a rival or a limit, in one table (an hour)
	$(MAKE) --no-print-directory -j 1 $(addprefix bench-,step evaluation memory loading shards startup growth)
	$(BIN)/python -m benchmarks.table training-step evaluation memory zero-memory loading shards startup growth

# The modules of `make bench-NAME`; by default benchmarks/NAME.py, with _ for -. Each docstring says what it measures.
BENCH.step := training_step
BENCH.memory := memory zero_memory
BENCH.shards := shard_speed
BENCH.evaluation := evaluation_speed
BENCH.search := search_speed
RIVAL = $(and $(filter $*,accuracy evaluation reranking search shards),$(RIVALS))
bench-%: $(VENV)/.train ## one benchmark with its record: step, evaluation (8 GB), shards (40 GB of disk), accuracy, mining, ... (benchmarks/*.py)
	@$(if $(RIVAL),$(MAKE) --no-print-directory VENV=$(RIVALS) $(RIVALS)/.bench)
	@set -e; for module in $(or $(BENCH.$*),$(subst -,_,$*)); do \
		echo "$(or $(RIVAL),$(VENV))/bin/python -m benchmarks.$$module"; $(or $(RIVAL),$(VENV))/bin/python -m benchmarks.$$module; done

bench-gpu: $(VENV)/.train ## the training step on a GPU, at the paper's batch and at one that fills it; kernels, waits, memory
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.training_step
	$(BIN)/python -m benchmarks.training_step --clips 64 --precisions bf16 --name training-step-64
	$(BIN)/python -m benchmarks.table training-step training-step-64 gpu

clean: ## remove the environment and what was built; data and runs stay
	rm -rf $(VENV) $(RIVALS) build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mstat needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.train

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[bench]'
	@# torchreid's compiled ranker, whose source its own packages lack; all that it says it needs is not needed for that
	$(INSTALL) --no-deps pyppbox-torchreid==1.4.1.0
	@touch $@ $(VENV)/.train
