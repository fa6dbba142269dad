"""The guard against a slower or larger step: counts of the traced step are those that are committed."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

from benchmarks import counts
from tests.conftest import PROJECT


def test_the_step_costs_what_is_committed() -> None:
    """FLOP, kernels, traffic and peak of the paper's step, with activation checkpointing and without, and of an
    evaluation, are those of benchmarks/counts.json within tolerances; nothing in them waits for a device."""
    command = [sys.executable, "-m", "benchmarks.counts"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_changed_is_named() -> None:
    """Counts beyond their tolerance: each in a line, with both counts; counts within it in none."""
    expected = json.loads(counts.FILE.read_text())
    assert counts.differences(expected, expected) == []
    result = copy.deepcopy(expected)
    step = result["training step"]
    step["bytes at the peak"] = round(1.01 * step["bytes at the peak"])
    step["kernels"] += 1_000
    del step["FLOP, forward"]
    kernels, flops = (expected["training step"][name] for name in ("kernels", "FLOP, forward"))
    assert counts.differences(expected, result) == [
        f"training step: FLOP, forward: {flops:,} -> 0 (-100.0%)",
        f"training step: kernels: {kernels:,} -> {kernels + 1_000:,} ({1_000 / kernels:+.1%})",
    ]
