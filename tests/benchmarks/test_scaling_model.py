"""The model of scaling: the page shows what the script prints, and the script's MSTAT is the real one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import scaling_model
from benchmarks.harness import MARS_IDENTITIES
from launch.model import count
from mstat.config import Config
from mstat.model.mstat import feature_dims
from mstat.training.task import Task
from tests.conftest import PROJECT


def test_the_page_shows_what_the_script_prints() -> None:
    """Every line of every table of `python -m benchmarks.scaling_model` stands in docs/scaling.md, in its order."""
    command = [sys.executable, "-m", "benchmarks.scaling_model"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout.splitlines()
    page = [line for line in (PROJECT / "docs" / "scaling.md").read_text().splitlines() if line.startswith("|")]
    rows = [line for line in printed if line.startswith("|")]
    assert len(rows) > 30
    assert [line for line in page if line in set(rows)] == rows


def test_its_mstat_is_ours() -> None:
    """Weights with the classifiers of 625 identities, floats of a clip, FLOP of one: those of the default Config."""
    with torch.device("meta"):
        task = Task(Config(), MARS_IDENTITIES)
    assert sum(parameter.numel() for parameter in task.parameters()) == scaling_model.WEIGHTS
    assert sum(feature_dims(Config().model)) == scaling_model.FEATURE
    flops = sum(size.flops for size in count(Config().model, num_frames=8).values())
    assert flops == pytest.approx(scaling_model.FORWARD_FLOP, rel=1e-5)


def test_bytes_are_those_of_a_ring() -> None:
    """Two ranks of one clip: one feature each way, half the weights twice; replicated, the way back is twice that."""
    step = scaling_model.Step(gpus=2, clips=1)
    assert step.gather_bytes == pytest.approx(2 * scaling_model.FEATURE * 4)
    assert step.gradient_bytes == pytest.approx(scaling_model.WEIGHTS * 4)
    assert replace(step, design=scaling_model.REPLICATED).gather_bytes == pytest.approx(3 * scaling_model.FEATURE * 4)
    alone = scaling_model.Step(gpus=1, clips=24)
    assert alone.gather_bytes == alone.gradient_bytes == 0


def test_distances_of_own_rows_grow_with_the_batch_and_replicated_ones_with_its_square() -> None:
    """Twice the GPUs at the same clips each."""
    factors = {scaling_model.REPLICATED: 4, scaling_model.OWN_ROWS: 2, scaling_model.TILED: 2}
    for design, factor in factors.items():
        small, large = (scaling_model.Step(gpus, scaling_model.CLIPS, design) for gpus in (8, 16))
        assert large.distances / small.distances == pytest.approx(factor)


@pytest.mark.parametrize("settings", scaling_model.SETTINGS.values())
def test_all_that_grows_with_ranks_are_features(settings: dict[str, Any]) -> None:
    """On 64 GPUs, the gathered features are held once, behind BNNecks a second time; the rest that waits for the
    backward pass (logits, distances, chosen clips) is small. Tensors of n x n x D, or of logits of all rows and many
    identities, would exceed the peak by far."""
    held, trace = scaling_model.loss_trace(64, settings)
    features = 64 * scaling_model.CLIPS * scaling_model.FEATURE * 4
    assert held["gathered features"] == features
    behind = held.get("features behind BNNecks", 0)
    assert behind == pytest.approx(features * bool(settings), rel=1e-3)
    weights = held["classifiers and BNNecks"]
    assert sum(held.values()) - features - behind - weights < 0.1 * features
    assert 2 * features + weights < trace.peak < 7 * features + 2 * weights
