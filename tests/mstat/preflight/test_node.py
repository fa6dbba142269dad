"""Facts and faults of one node."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mstat.config import Config, changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.losses import METRIC_LOSSES
from mstat.preflight.node import (
    NOT_BUILT,
    checkpoint_bytes,
    gather_facts,
    read_nvidia_smi,
    space_needed,
)
from mstat.pretraining.pretrain import pretrain
from mstat.provenance import PROJECT, source_digest
from mstat.training.task import Task
from mstat.training.train import training_sampler
from shards.read import Reader
from tests.conftest import tiny_actions_yaml

# nvidia-smi's output for the query of mstat/preflight/node.py, written from its manual without a GPU.
GPUS = """\
0, GPU-5aa1, NVIDIA A100-SXM4-80GB, 4, 81920, 0, Not Active
1, GPU-5aa2, NVIDIA A100-SXM4-80GB, 40960, 81920, 2, Active
2, GPU-5aa3, NVIDIA A100-SXM4-80GB, 4, 81920, [N/A], Not Active
"""


def test_the_size_of_a_checkpoint(reference: Path) -> None:
    """The estimate from the settings is within 5 % of the files of a real run."""
    config = load_config(reference / "config.yaml")
    reader = Reader(config.data.shards)
    weights, checkpoint = checkpoint_bytes(config, len(training_sampler(reader, config).pids))
    newest = sorted((reference / "checkpoints").iterdir())[-1]
    assert sum(path.stat().st_size for path in newest.rglob("*")) == pytest.approx(checkpoint, rel=0.05)
    assert (reference / "model.safetensors").stat().st_size == pytest.approx(weights, rel=0.05)
    assert space_needed(config, reader) == 3 * checkpoint + weights


def test_an_average_takes_as_much_as_the_weights(tiny_config: Path) -> None:
    """A checkpoint of `train.ema` has one more copy of them."""
    weights, checkpoint = checkpoint_bytes(load_config(tiny_config), 9)
    _, larger = checkpoint_bytes(changed(load_config(tiny_config), {"train.ema": 0.99}), 9)
    assert weights < larger - checkpoint < 1.6 * weights  # the names of these small tensors take half as much


@pytest.mark.parametrize("metric", [*METRIC_LOSSES, "none"])
def test_the_weights_of_every_loss(metric: str, tiny_config: Path) -> None:
    """The size from the settings alone is that of the module that training makes."""
    config = changed(load_config(tiny_config), {"loss.metric": metric})
    weights, _ = checkpoint_bytes(config, 9)
    assert weights == sum(tensor.nbytes for tensor in Task(config, 9).state_dict().values())


def test_a_healthy_node(reference: Path) -> None:
    """No faults; the checksum of the shards; existing checkpoints reduce the needed space."""
    config = replace(load_config(reference / "config.yaml"), run=str(reference))
    facts = gather_facts(config, 1)
    assert facts["faults"] == []
    assert facts["shards"] == Reader(config.data.shards).checksum
    assert facts["free"] > facts["needed"]
    assert gather_facts(replace(config, run=f"{config.run}-new"), 1)["needed"] > facts["needed"]


def test_all_faults_of_a_node_are_reported(tmp_path: Path) -> None:
    """Missing shards and missing pretrained weights are two faults."""
    settings = {"data.shards": str(tmp_path / "none"), "model.init": str(tmp_path / "timesformer.safetensors")}
    config = changed(Config(run=str(tmp_path / "run")), settings)
    faults = [what for what, _ in gather_facts(config, 1)["faults"]]
    assert len(faults) == 2
    assert faults[0].startswith("shards: ")
    assert faults[1] == f"model.init: {config.model.init} does not exist"


@pytest.mark.slow
def test_the_needs_of_other_commands(tiny_actions: Path, reference: Path, tmp_path: Path) -> None:
    """Pretraining has checkpoints of another size; an evaluation needs neither space nor the initial weights."""
    yaml = tmp_path / "actions.yaml"
    yaml.write_text(tiny_actions_yaml(tiny_actions))
    config = load_config(yaml, ["--run", str(tmp_path / "run"), "--data.num_workers", "0"])
    needed = gather_facts(config, 1, "pretrain")["needed"]
    with Engine(config) as engine:
        pretrain(config, engine)
    kept = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").rglob("*"))  # two: train.keep
    weights = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert needed == pytest.approx(1.5 * kept + weights, rel=0.05)

    config = load_config(reference / "config.yaml", ["--model.init", "gone.safetensors"])
    facts = gather_facts(config, 1, "evaluate")
    assert (facts["needed"], facts["faults"]) == (None, [])


def test_the_synthetic_set_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training builds it."""
    monkeypatch.chdir(tmp_path)
    facts = gather_facts(Config(run="run"), 1)
    assert facts["shards"] == NOT_BUILT
    assert facts["faults"] == []


def test_two_checkouts_differ_without_git(tmp_path: Path) -> None:
    """Equal files have equal digests; one more byte changes the digest."""
    for room in ("shards", "mstat", "launch"):
        shutil.copytree(PROJECT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    assert source_digest(tmp_path) == source_digest(PROJECT)
    with (tmp_path / "mstat" / "task.py").open("a") as file:
        file.write("\n")
    assert source_digest(tmp_path) != source_digest(PROJECT)


def test_reading_nvidia_smi() -> None:
    """A GPU in use, memory errors and a slowdown are three faults; `[N/A]` is none."""
    names, faults = read_nvidia_smi(GPUS, None)
    assert names == ["NVIDIA A100-SXM4-80GB"] * 3
    assert [what for what, _ in faults] == [
        "GPU 1: 40,960 of 81,920 MiB in use before the run",
        "GPU 1: 2 uncorrected memory errors (ECC)",
        "GPU 1: slowed by its hardware (heat or power)",
    ]


@pytest.mark.parametrize(("visible", "count"), [("0,2", 2), ("GPU-5aa1", 1), ("", 0), ("MIG-1", 3)])
def test_only_visible_gpus_count(visible: str, count: int) -> None:
    """CUDA_VISIBLE_DEVICES holds numbers or UUIDs."""
    names, faults = read_nvidia_smi(GPUS, visible)
    assert len(names) == count
    assert bool(faults) == (count == 3)
