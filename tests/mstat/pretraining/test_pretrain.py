"""Pretraining: what is refused, and accuracies that are those of a plain loop, on any number of ranks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import mstat
import shards
from mstat.config import Config, ModelConfig
from mstat.config.cli import load_config
from mstat.data.clips import evaluation_clips
from mstat.distributed.engine import Engine
from mstat.pretraining.pretrain import accuracy, accuracy_table, check_settings, class_names, held_out
from mstat.pretraining.task import ActionTask
from mstat.pretraining.timesformer import Classifier
from mstat.report.tables import Row
from mstat.weights.export import export_classifier
from mstat.weights.pretrained import load_pretrained
from tests.conftest import tiny_actions_yaml
from tests.helpers.distributed import run_distributed
from tests.mstat.model.small import build


@pytest.fixture
def config(tmp_path: Path, tiny_actions: Path) -> Config:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_actions_yaml(tiny_actions))
    return load_config(path, ["--data.num_workers", "0"])


def scored(config: Config) -> dict[str, Any]:
    """Accuracies of a classifier with random weights, on this rank, with tiles of 5 clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mstat.evaluation.extraction.TILE", 5)
        if dist.is_initialized():
            rank, world_size = str(dist.get_rank()), str(dist.get_world_size())
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            for name, value in {**ranks, "MASTER_ADDR": "localhost"}.items():
                patch.setenv(name, value)
        return accuracy(Engine(config), classifier(config), shards.open(config.data.shards), config)


def classifier(config: Config) -> Classifier:
    torch.manual_seed(0)
    model = ActionTask(config, 8).model
    assert isinstance(model, Classifier)
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.mark.slow
def test_accuracy_is_that_of_a_plain_loop_on_any_number_of_ranks(config: Config) -> None:
    """Counts of right, of the five best and of each class, clip by clip; the very same on 1 and 3 ranks."""
    accuracies = scored(config)
    reader = shards.open(config.data.shards)
    model = classifier(config)
    tracklets, labels, classes = held_out(reader, config.data)
    right, among_five, predicted = 0, 0, dict.fromkeys(classes, 0)
    for tracklet, label in zip(tracklets.tolist(), labels.tolist(), strict=True):
        (numbers,) = evaluation_clips(int(reader.num_frames[tracklet]), config.eval, tracklet)
        (scores,) = model(torch.from_numpy(reader.frames(tracklet, numbers, size=config.model.image_size))[None])
        order = scores[0].argsort(descending=True).tolist()
        right, among_five = right + (order[0] == label), among_five + (label in order[:5])
        predicted[classes[order[0]]] += 1
    assert (accuracies["accuracy"], accuracies["top5"]) == (right / len(labels), among_five / len(labels))
    assert 0 < accuracies["accuracy"] < accuracies["top5"]
    for name, count in predicted.items():
        assert sum(of_class["predicted"].get(name, 0) for of_class in accuracies["classes"].values()) == count
    num_clips = sum(of_class["num_clips"] for of_class in accuracies["classes"].values())
    assert num_clips == accuracies["num_clips"] == len(labels)
    assert run_distributed(scored, 3, config) == [accuracies] * 3
    names = [row.name for row in accuracy_table(accuracies).rows if isinstance(row, Row)]
    assert sorted(names[:-2]) == sorted(accuracies["classes"])
    assert names[-2:] == ["all", "all, top-5"]


def test_names_of_classes_come_from_the_source() -> None:
    """By number, whatever is in them; without a note a class is called by its number."""

    noted: Any = SimpleNamespace(facts={"classes": "1 jump, high, 2 wave 2 hands, 10 run"})
    bare: Any = SimpleNamespace(facts={})
    assert class_names(noted, [1, 2, 10]) == ["jump, high", "wave 2 hands", "run"]
    assert class_names(bare, np.array([3, 4])) == ["3", "4"]


def test_what_makes_no_sense_is_refused(config: Config, tiny_shards: Path) -> None:
    """No length in steps, other frames in the test, a grid that import would take for another, a set of people."""
    check_settings(config)
    with pytest.raises(ValueError, match=r"train\.steps is null"):
        check_settings(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=None)))
    with pytest.raises(ValueError, match=r"eval\.num_frames is 4 and clip\.num_frames is 3"):
        check_settings(dataclasses.replace(config, eval=dataclasses.replace(config.eval, num_frames=4)))
    with pytest.raises(ValueError, match="makes 4 x 1 patches"):
        check_settings(dataclasses.replace(config, model=ModelConfig(image_size=(64, 16))))
    check_settings(dataclasses.replace(config, model=ModelConfig(image_size=(224, 112))))
    with pytest.raises(ValueError, match="14 of the 14 held-out classes are not in training"):
        held_out(shards.open(tiny_shards), Config().data)


@pytest.mark.parametrize("time", ["divided", "none"])
def test_the_exported_file_is_for_init_alone(time: Any, config: Config, tmp_path: Path) -> None:
    """model.safetensors goes through --model.init; mstat.load says so instead of making a model of it."""
    config = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, time=time))
    task = ActionTask(config, 2)
    run = tmp_path / "run"
    run.mkdir()
    export_classifier(run, task.state_dict(), config, ["growing", "shrinking"])
    described = json.loads((run / "model.json").read_text())["classifier"]
    assert described == {
        "classes": ["growing", "shrinking"], "num_frames": 3, "time": time, "image_size": [16, 16],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"launch/train\.py --model\.init .*model\.safetensors"):
        mstat.load(run)
    model = build(depths=(1, 1, 1))
    load_pretrained(model, run / "model.safetensors")
    assert torch.equal(model.stem.class_token, task.model.stem.class_token)


def test_a_start_from_weights_does_not_disturb_them(config: Config) -> None:
    """With model.init the temporal position starts at 0; from scratch it does not."""
    assert ActionTask(config, 2).get_parameter("model.time_position").abs().min() > 0
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, init="vit.safetensors"))
    assert ActionTask(config, 2).get_parameter("model.time_position").abs().max() == 0
