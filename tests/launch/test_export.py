"""`launch/export.py`: the model of a run in each format, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mstat
from launch.export import main
from mstat.config import Config
from mstat.config.cli import save_config
from mstat.training.task import Task
from mstat.weights.export import export
from mstat.weights.graphs import METADATA
from tests.mstat.model.small import clips
from tests.mstat.training.test_task import SMALL

CONFIG = Config(model=replace(SMALL, init="elsewhere/timesformer.safetensors"), seed=5)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder as training leaves it, as far as an export reads it; it started from weights."""
    folder = tmp_path / "mars"
    folder.mkdir()
    torch.manual_seed(0)
    save_config(CONFIG, folder / "config.yaml")
    (folder / "init.json").write_text(json.dumps({"file": "/disk/of/someone/timesformer.safetensors", "rows": []}))
    export(folder, Task(CONFIG, 3).state_dict(), CONFIG.model)
    return folder


def run(folder: Path, out: Path, *flags: str) -> int:
    return main(["--run", str(folder), "--out", str(out), *flags])


def test_a_program_of_a_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Has the features of `mstat.load`, and says where they come from, by names alone; it is not written twice."""
    flags = ("--format", "torch", "--init-licence", "CC BY-NC 4.0")
    assert run(finished, tmp_path / "out", *flags) == 0
    assert "its features differ from the model's by at most " in capsys.readouterr().out
    (file,) = (tmp_path / "out").iterdir()
    extra = {METADATA: ""}
    program = torch.export.load(file, extra_files=extra)
    frames = clips(3, 5)
    torch.testing.assert_close(program.module()(frames), mstat.load(finished).embed(frames), rtol=0, atol=1e-5)
    metadata = json.loads(extra[METADATA])
    assert {key: metadata[key] for key in ("run", "weights", "seed", "start_weights", "start_weights_licence")} == {
        "run": "mars",
        "weights": "model.safetensors",
        "seed": 5,
        "start_weights": "timesformer.safetensors",
        "start_weights_licence": "CC BY-NC 4.0",
    }
    assert str(tmp_path) not in extra[METADATA]
    assert "/disk" not in extra[METADATA]

    before = file.read_bytes()
    assert run(finished, tmp_path / "out", *flags) == 1
    assert "model.pt2: the file exists; give another --out, or remove it" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_half_precision(finished: Path, tmp_path: Path) -> None:
    """model.safetensors in half precision has the run's weights, rounded, and loads."""
    assert run(finished, tmp_path / "out", "--dtype", "float16") == 0
    ours = load_file(tmp_path / "out" / "model.safetensors")
    expected = {name: tensor.half() for name, tensor in load_file(finished / "model.safetensors").items()}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    exact = mstat.load(finished).embed(clips())
    assert (mstat.load(tmp_path / "out").embed(clips()) - exact).abs().max() < 0.02


def test_what_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A licence that no file would hold, or of no weights; weights beyond half precision; a classifier of actions.

    Each in one line with the way out, and nothing is written."""
    out = tmp_path / "out"

    def refused(*flags: str) -> str:
        assert run(finished, out, *flags) == 1
        assert not out.exists()
        return capsys.readouterr().err

    assert "give --format onnx or --format torch" in refused("--init-licence", "MIT")
    task = Task(CONFIG, 3)
    task.model.stem.position.data[0, 0] = 70_000
    export(finished, task.state_dict(), CONFIG.model)
    message = refused("--format", "torch", "--dtype", "float16")
    assert "stem.position has values above 65,504, its largest: use --dtype float32" in message

    (finished / "model.json").write_text(json.dumps({"format": 1, "classifier": {"classes": ["run", "walk"]}}))
    assert "which cannot tell people apart" in refused("--format", "torch")

    (finished / "init.json").unlink()
    save_config(replace(CONFIG, model=SMALL), finished / "config.yaml")
    export(finished, Task(CONFIG, 3).state_dict(), SMALL)
    assert "the run has no start weights (model.init)" in refused("--format", "torch", "--init-licence", "MIT")
