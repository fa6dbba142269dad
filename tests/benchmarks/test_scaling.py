"""The model of scaling: the page shows what the script prints, and the script's MSTAT is the real one."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import scaling
from benchmarks.harness import MARS_IDENTITIES
from launch.model import count
from mstat.config import Config
from mstat.model.mstat import feature_dims
from mstat.training.task import Task
from tests.conftest import PROJECT


def test_the_page_shows_what_the_script_prints() -> None:
    """Every line of every table of `python -m benchmarks.scaling` stands in docs/scaling.md, in its order."""
    command = [sys.executable, "-m", "benchmarks.scaling"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout.splitlines()
    page = [line for line in (PROJECT / "docs" / "scaling.md").read_text().splitlines() if line.startswith("|")]
    rows = [line for line in printed if line.startswith("|")]
    assert len(rows) > 30
    assert [line for line in page if line in set(rows)] == rows


def test_its_mstat_is_ours() -> None:
    """Weights with the classifiers of 625 identities, floats of a clip, FLOP of one: those of the default Config."""
    with torch.device("meta"):
        task = Task(Config(), MARS_IDENTITIES)
    assert sum(parameter.numel() for parameter in task.parameters()) == scaling.WEIGHTS
    assert sum(feature_dims(Config().model)) == scaling.FEATURE
    flops = sum(size.flops for size in count(Config().model, num_frames=8).values())
    assert flops == pytest.approx(scaling.FORWARD_FLOP, rel=1e-5)


def test_bytes_are_those_of_a_ring() -> None:
    """Two ranks of one clip: one feature forward, half of two features twice backward, half the weights twice."""
    step = scaling.Step(gpus=2, clips=1)
    assert step.gather_bytes == pytest.approx(3 * scaling.FEATURE * 4)
    assert step.gradient_bytes == pytest.approx(scaling.WEIGHTS * 4)
    assert scaling.Step(gpus=1, clips=24).gather_bytes == scaling.Step(gpus=1, clips=24).gradient_bytes == 0


def test_distances_grow_with_the_square_and_rows_of_ones_own_with_the_batch() -> None:
    """Twice the GPUs at the same clips each: four times the distances, twice if each rank takes its own rows."""
    for design, factor in {scaling.TOGETHER: 4, scaling.TILED: 4, scaling.SHARED: 2}.items():
        small, large = (scaling.Step(gpus, scaling.CLIPS, design) for gpus in (8, 16))
        assert large.distances / small.distances == pytest.approx(factor)
