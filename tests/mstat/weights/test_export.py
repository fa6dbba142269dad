"""The exported model: rebuilt from its two files, the same features bit for bit; anything else is one clear message."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mstat
from mstat.config import Config
from mstat.errors import UserError
from mstat.model import Embedding
from mstat.training.task import Task
from mstat.weights.export import export
from mstat.weights.pretrained import load_pretrained
from tests.mstat.model.small import build
from tests.mstat.training.test_task import SMALL


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Task]:
    torch.manual_seed(0)
    task = Task(Config(model=SMALL), 3)
    export(tmp_path, task.state_dict(), SMALL)
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


@pytest.mark.parametrize("embedding", [Embedding("neck", True), Embedding("neck", False), Embedding("feature", True)])
def test_the_form_of_features_travels(embedding: Embedding, tmp_path: Path) -> None:
    """BNNecks and the settings of the evaluation are in the files: `embed` returns what the run's scores compare."""
    torch.manual_seed(0)
    task = Task(Config(model=replace(SMALL, bnneck=True)), 3)
    for neck in task.model.necks.values():
        nn.init.normal_(neck.get_buffer("running_mean"))
        nn.init.uniform_(neck.get_buffer("running_var"), 0.1, 2)
    export(tmp_path, task.state_dict(), task.model.config, embedding)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, *SMALL.image_size, 3), dtype=np.uint8)
    with torch.no_grad():
        parts = list(task.model(torch.as_tensor(frames)))
        if embedding.feature == "neck":
            for number, neck in enumerate(task.model.necks.values()):
                mean, variance = neck.get_buffer("running_mean"), neck.get_buffer("running_var")
                parts[number] = (parts[number] - mean) / (variance + 1e-5).sqrt() * neck.get_parameter("weight")
    if embedding.stage_norm:
        parts = [part / part.norm(dim=1, keepdim=True) for part in parts]
    model = mstat.load(tmp_path)
    assert model.embedding == embedding
    torch.testing.assert_close(model.embed(frames), torch.cat(parts, dim=1), rtol=1e-5, atol=1e-5)
    model.train()  # changes nothing
    torch.testing.assert_close(model.embed(frames), torch.cat(parts, dim=1), rtol=1e-5, atol=1e-5)


def test_an_older_export_has_no_necks(tmp_path: Path) -> None:
    """Its model.bnneck says how it was trained; its features load, and what is behind its necks is refused by name."""
    torch.manual_seed(0)
    task = Task(Config(model=replace(SMALL, bnneck=True)), 3)
    state = {name: value for name, value in task.state_dict().items() if "necks" not in name}
    export(tmp_path, state, task.model.config)
    description = json.loads((tmp_path / "model.json").read_text())
    del description["embedding"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    frames = torch.randint(0, 256, (2, 3, *SMALL.image_size, 3), dtype=torch.uint8)
    model = mstat.load(tmp_path)
    assert torch.equal(model.embed(frames), task.model.embed(frames))
    with pytest.raises(UserError, match=r"these weights have none: use --eval.feature feature"):
        model.compared(frames, "neck")


@pytest.mark.parametrize(
    "value", [[], {"feature": "tail"}, {"feature": "neck", "stage_norm": 1}, {"code": "x"}, {"feature": ["neck"]}]
)
def test_an_odd_form_of_features_is_refused(exported: tuple[Path, Task], value: object) -> None:
    folder, _ = exported
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "embedding": value}))
    with pytest.raises(UserError, match=r"model.json: not a model description: embedding is"):
        mstat.load(folder)


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
    with pytest.raises(ValueError, match=r"model.json: not a model description"):
        mstat.load(folder)
    (folder / "model.json").unlink()
    with pytest.raises(ValueError, match=r"model.json: no such file"):
        mstat.load(folder)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int) -> None:
    """model.safetensors has the mode of any other file, not safetensors's 0600."""
    before = os.umask(umask)
    try:
        export(tmp_path, Task(Config(model=SMALL), 3).state_dict(), SMALL)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize(("dtype", "error"), [("half", 0.01), ("bfloat16", 0.05), ("double", 1e-5)])
@pytest.mark.parametrize("embedding", [Embedding(), Embedding("neck", True)])
def test_other_precisions_embed(tmp_path: Path, dtype: str, error: float, embedding: Embedding) -> None:
    """`mstat.load(...).half()` and the like give the features of the model to their own precision, in float32, also
    behind the necks; a model in double precision in float64."""
    torch.manual_seed(0)
    task = Task(Config(model=replace(SMALL, bnneck=embedding.feature == "neck")), 3)
    export(tmp_path, task.state_dict(), task.model.config, embedding)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 30, 3), dtype=np.uint8)
    expected = mstat.load(tmp_path).embed(frames)
    features = getattr(mstat.load(tmp_path), dtype)().embed(frames)
    assert features.dtype == (torch.float64 if dtype == "double" else torch.float32)
    assert float((features - expected).norm() / expected.norm()) < error


def describe(folder: Path, **changes: object) -> None:
    """model.json with other values in its model section, without a checksum, as older versions wrote it."""
    content = json.loads((folder / "model.json").read_text())
    content.pop("sha256", None)
    content["model"] |= changes
    (folder / "model.json").write_text(json.dumps(content))


def refused(source: Path | str) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(UserError) as caught:
        mstat.load(source)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 800 + len(str(source))
    return str(caught.value)


def test_damaged_weights_are_noticed(exported: tuple[Path, Task]) -> None:
    """One flipped bit of a number: refused by the checksum, also as a start. Older exports without one still load."""
    folder, _ = exported
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors: changed after it was written" in refused(folder)
    with pytest.raises(UserError, match="changed after it was written"):
        load_pretrained(build(), folder)
    describe(folder)
    assert mstat.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 2**40},
        {"width": -8},
        {"width": 10**400},
        {"width": True},
        {"width": None},
        {"width": "16"},
        {"width": 2**30, "num_heads": 1},
        {"patch_size": 0},
        {"image_size": [32]},
        {"image_size": [-32, 16]},
        {"image_size": [65528, 65528]},
        {"depths": [1024, 1024, 1024]},
        {"depths": [[1], 1, 1]},
        {"stages": ["IV"]},
        {"stages": ["I"] * 1000},
        {"mlp_ratio": float("nan")},
        {"mlp_ratio": float("inf")},
        {"mlp_ratio": 1e200},
        {"num_prototypes": 2**31 - 1},
        {"num_attributes": 10**9},
        {"iap_norm": "softmax"},
        {"iap": {"class_path": "os.C"}},
        {"bnneck": 1},
        {"class_path": "os.C"},
        {"init": ["x"]},
        {"a\x1b[2J": 1},
    ],
    ids=lambda changes: ascii(changes)[:40],
)
def test_absurd_descriptions_are_refused(exported: tuple[Path, Task], changes: dict[str, object]) -> None:
    """By field or tensor, before memory is taken for what is not in the file."""
    describe(exported[0], **changes)
    refused(exported[0])


@pytest.mark.parametrize("content", ["[]", "null", '{"format": 1}', '{"format": 1, "model": []}', "[" * 100_000, "\0"])
def test_what_is_no_description_is_refused(exported: tuple[Path, Task], content: str) -> None:
    """Any invalid model.json is refused, JSON or not."""
    (exported[0] / "model.json").write_text(content)
    assert "model.json: not a model description: " in refused(exported[0])


@pytest.mark.parametrize("kind", ["nan", "int", "complex", "missing", "more", "shape", "zero deviation"])
def test_odd_tensors_are_refused(exported: tuple[Path, Task], kind: str) -> None:
    """Numbers that are not finite, types other than floats, and tensors that the model does not have or lacks."""
    folder, _ = exported
    describe(folder)
    weights = load_file(folder / "model.safetensors")
    position = weights["stem.position"]
    weights |= {
        "nan": {"stem.position": position * float("nan")},
        "int": {"stem.position": position.long()},
        "complex": {"stem.position": position.to(torch.complex64)},
        "more": {"more": torch.zeros(1)},
        "shape": {"stem.position": position[None]},
        "zero deviation": {"stem.pixel_std": torch.zeros(3)},
    }.get(kind, {})
    if kind == "missing":
        del weights["stem.position"]
    save_file(weights, folder / "model.safetensors")
    assert "model.safetensors: " in refused(folder)


def test_half_precision_on_disk_is_loaded(exported: tuple[Path, Task]) -> None:
    """Floats of another size become the model's own."""
    folder, _ = exported
    describe(folder)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    model = mstat.load(folder)
    assert model.stem.position.dtype == torch.float32
    assert torch.equal(model.stem.position, weights["stem.position"].float())


@pytest.mark.parametrize("source", ["~nobody-here/x", "a\nb", "\x1b[2J", "/dev/null", ""])
def test_every_refusal_is_one_documented_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any bad path gives the documented error."""
    monkeypatch.chdir(tmp_path)
    refused(source)
