"""The exported model: rebuilt from its two files, the same features bit for bit; anything else is one clear message."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

import mstat
from mstat.config import Config
from mstat.export import export
from mstat.task import Task
from tests.mstat.test_task import SMALL


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Task]:
    torch.manual_seed(0)
    task = Task(Config(model=SMALL), 3)
    export(tmp_path, task.state_dict(), Config(model=SMALL))
    return tmp_path, task


def test_load_gives_the_model_back(exported: tuple[Path, Task]) -> None:
    """From the folder or the file, in evaluation mode; features of a clip are bitwise those of the trained model."""
    folder, task = exported
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 30, 3), dtype=np.uint8)
    expected = task.model.embed(frames)
    assert expected.shape == (2, sum(task.dims))
    for source in (folder, str(folder), folder / "model.safetensors"):
        model = mstat.load(source)
        assert not model.training
        assert torch.equal(model.embed(frames), expected)


def test_missing_or_foreign_files_are_told(exported: tuple[Path, Task]) -> None:
    """A missing file, a description of another form and weights of another shape each name the file."""
    folder, _ = exported
    with pytest.raises(ValueError, match="nowhere"):
        mstat.load(folder / "nowhere")
    description = (folder / "model.json").read_text()
    (folder / "model.json").write_text(description.replace('"width": 16', '"width": 32'))
    with pytest.raises(ValueError, match=r"model.safetensors: does not fit model.json"):
        mstat.load(folder)
    (folder / "model.json").write_text(description.replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match=r"model.json: .*format 99"):
        mstat.load(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.json: not a description"):
        mstat.load(folder)
    (folder / "model.json").unlink()
    with pytest.raises(ValueError, match=r"model.json: not there"):
        mstat.load(folder)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int) -> None:
    """model.safetensors has the mode of any other file, not safetensors's 0600."""
    before = os.umask(umask)
    try:
        export(tmp_path, Task(Config(model=SMALL), 3).state_dict(), Config(model=SMALL))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize(("dtype", "error"), [("half", 0.01), ("bfloat16", 0.05), ("double", 1e-5)])
def test_other_precisions_embed(exported: tuple[Path, Task], dtype: str, error: float) -> None:
    """`mstat.load(...).half()` and the like give the features of the model to their own precision, in float32; a model
    in double precision in float64."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 30, 3), dtype=np.uint8)
    expected = mstat.load(exported[0]).embed(frames)
    features = getattr(mstat.load(exported[0]), dtype)().embed(frames)
    assert features.dtype == (torch.float64 if dtype == "double" else torch.float32)
    assert float((features - expected).norm() / expected.norm()) < error
