"""The guard against a slower or larger step: counts of the traced step are those that are committed."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import counts


def test_the_step_costs_what_is_committed() -> None:
    """FLOP, kernels, allocations, traffic and peak of the paper's step, with activation checkpointing and without, and
    of an evaluation, are those of benchmarks/counts.json; nothing in them waits for a device."""
    recorded = json.loads(counts.FILE.read_text())["torch"]
    if recorded != counts.torch_version():
        pytest.skip(f"the counts are those of torch {recorded}")
    command = [sys.executable, str(PROJECT / "benchmarks" / "counts.py")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_changed_is_named() -> None:
    """More kernels, one that is new and one that is gone: each in a line, with both counts; what is equal in none."""
    expected = json.loads(counts.FILE.read_text())
    assert counts.differences(expected, expected) == []
    found = copy.deepcopy(expected)
    step = found["training step"]
    step["kernels"]["copies"] += 1_000
    step["kernels by operation"]["pow"] = 2
    del step["kernels by operation"]["gelu"]
    before = expected["training step"]["kernels"]["copies"]
    gelus = expected["training step"]["kernels by operation"]["gelu"]
    assert counts.differences(expected, found) == [
        f"training step: kernels: copies: {before:,} -> {before + 1_000:,} ({1_000 / before:+.1%})",
        f"training step: kernels by operation: gelu: {gelus} -> 0 (-100.0%)",
        "training step: kernels by operation: pow: 0 -> 2",
    ]
