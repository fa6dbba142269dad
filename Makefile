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

.DEFAULT_GOAL := help
.PHONY: $(shell awk -F: '/^[a-z-]+:/{print $$1}' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.train ## draw the synthetic set, shard it, train the small MSTAT, score it (8 minutes on 2 cores)
	$(BIN)/accelerate launch --config_file configs/accelerate/single.yaml launch/train.py

test: $(VENV)/.dev lint ## run all tests and the linters (15 minutes on 2 cores)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "not gpu and not soak" $(PARALLEL)

test-gpu: $(VENV)/.dev ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

soak: $(VENV)/.dev ## every kind of parallelism, failure and host, 25 kills each; records in benchmarks/ (an hour)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m soak --kills 25 --record soak \
		--ignore tests/soak/test_container.py --ignore tests/soak/test_cluster.py

soak-long: $(VENV)/.dev ## 100 kills under DDP, 100 under ZeRO-2; records in benchmarks/ (hours)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m soak tests/soak/test_kills.py --kills 100 --record soak-long

soak-container: $(VENV)/.dev ## Dockerfile's steps for CPUs in a clean Debian, and a training in it (root; 10 minutes)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m soak tests/soak/test_container.py --record soak-container

soak-cluster: $(VENV)/.dev ## a Slurm of two nodes and 25 faults of it; records in benchmarks/ (half an hour; root)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m soak tests/soak/test_cluster.py --faults 25 --record soak-cluster

fuzz: $(VENV)/.dev ## mutated inputs of every kind: read right or refused in one line; a record in benchmarks/ (20 minutes)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m tests.fuzz --record

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCHES := training-step evaluation memory zero-memory loading shards startup growth
bench: bench-step bench-evaluation bench-memory bench-loading bench-shards bench-startup bench-growth ## all that is measured against a rival or a limit, in one table (half an hour to an hour and a half)
	$(BIN)/python benchmarks/table.py $(BENCHES)
.NOTPARALLEL: bench

bench-shards: ## build, random access and opening of shards against tar and torchreid (40 GB of disk)
	@$(MAKE) --no-print-directory VENV=$(RIVALS) $(RIVALS)/.bench
	$(RIVALS)/bin/python benchmarks/shard_speed.py

bench-step: $(VENV)/.train ## the training step of the paper's model against the field's (15 minutes; a C++ compiler)
	$(BIN)/python benchmarks/training_step.py

bench-gpu: $(VENV)/.train ## the same on a GPU, at the paper's batch and at one that fills it; kernels, waits, memory
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/training_step.py --clips 64 --precisions bf16 --name training-step-64
	$(BIN)/python benchmarks/table.py training-step training-step-64 gpu

bench-accuracy: $(VENV)/.train ## train on three fresh synthetic sets and record the scores in benchmarks/
	$(BIN)/python benchmarks/accuracy.py

bench-mining: $(VENV)/.train ## mining over all ranks against mining per rank, three seeds each
	$(BIN)/python benchmarks/mining.py

bench-communication: $(VENV)/.train ## bytes and time of the gather and the gradient reduction on 1, 2, 4 CPU ranks
	$(BIN)/python benchmarks/communication.py

bench-evaluation: ## ranking, search and extraction against torchreid, matrix product and forward (8 GB of memory)
	@$(MAKE) --no-print-directory VENV=$(RIVALS) $(RIVALS)/.bench
	@# torchreid's compiled ranker, whose source its own packages lack; all that it says it needs is not needed for that
	$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps pyppbox-torchreid==1.4.1.0
	$(RIVALS)/bin/python benchmarks/evaluation_speed.py

bench-evaluation-memory: $(VENV)/.train ## memory and traffic of ranking a gallery of a million
	$(BIN)/python benchmarks/evaluation_memory.py

bench-memory: $(VENV)/.train ## memory of the paper's step and evaluation, counted; of a rank under ZeRO, measured
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/zero_memory.py

bench-pretraining: $(VENV)/.train ## order of frames learned with time, three seeds, and not without
	$(BIN)/python benchmarks/pretraining.py

bench-loading: $(VENV)/.train ## the loader's rate, the cores a GPU needs, stalls, memory and starts (5 minutes)
	$(BIN)/python benchmarks/loading.py

bench-growth: $(VENV)/.train ## how cost grows with clips, frames, identities, ranks, gallery, queries, build (8 minutes)
	$(BIN)/python benchmarks/growth.py

bench-under-load: $(VENV)/.train ## a training beside busy loops, by settings of OpenMP; run it on a quiet machine (10 minutes)
	$(BIN)/python benchmarks/under_load.py

bench-startup: $(VENV)/.train ## seconds to a help, to the first step after a restart, for a checkpoint (12 GB of memory)
	$(BIN)/python benchmarks/startup.py

clean: ## remove the environment; data and runs stay
	rm -rf $(VENV) $(RIVALS)

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
	@touch $@ $(VENV)/.train
