"""Graphs give the features of `MSTAT.embed`, for numbers of clips and frames with which they were never traced."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mstat.errors import UserError
from mstat.model import MSTAT, Embedding
from mstat.weights import graphs
from mstat.weights.graphs import FILES, METADATA, GraphFormat, largest_difference, trace, write_graph
from tests.mstat.model.small import build, clips

PROJECT = Path(__file__).resolve().parents[3]
SHAPES = [(1, 1), (1, 8), (3, 5), (7, 2), (2, 32)]  # B, T
PLAIN: dict[str, Any] = {"depths": (0, 0, 1)}  # one A-STA, both IAPs
OTHERS: dict[str, Any] = {  # one STA in place of an IAP
    "depths": (0, 0, 0), "stages": ("I", "II"), "iap": "III", "iap_norm": "l1-softmax", "stem_norm": True,
    "layer_scale": 0.5, "activation": "quick_gelu", "bnneck": True, "stage1_aap": False,
}  # fmt: skip
VARIANTS: dict[str, tuple[dict[str, Any], Embedding]] = {
    "plain": (PLAIN, Embedding()),
    "others": (OTHERS, Embedding("neck", True)),
    "deeper": ({"depths": (1, 1, 1)}, Embedding()),
    "l1-softmax": ({**PLAIN, "iap_norm": "l1-softmax"}, Embedding()),
    "stage norm": (PLAIN, Embedding("feature", True)),
    "neck": ({**PLAIN, "bnneck": True}, Embedding("neck", False)),
    "quick gelu": ({**PLAIN, "activation": "quick_gelu", "norm_eps": 1e-5}, Embedding()),
    "stem norm": ({**PLAIN, "stem_norm": True}, Embedding()),
    "layer scale": ({**PLAIN, "layer_scale": 0.5}, Embedding()),
    "one stage": ({**PLAIN, "stages": ("I",)}, Embedding()),
    "stages I, III": ({**PLAIN, "stages": ("I", "III")}, Embedding()),
    "STA in Stage III": ({**PLAIN, "stage3_asta": False}, Embedding()),
    **{f"iap {iap}": ({**PLAIN, "iap": iap}, Embedding()) for iap in ("II", "III", "none")},
}
# Each export takes seconds: the others run in `make soak`.
FAST = [("plain", "onnx"), ("plain", "torch"), ("others", "onnx")]
SLOW = [(name, form) for name in VARIANTS for form in FILES if (name, form) not in FAST]
Write = Callable[[str, GraphFormat], tuple[MSTAT, Path]]


def variant(name: str) -> MSTAT:
    """A model whose necks and scales differ from their start, so that a graph without them shows."""
    changes, embedding = VARIANTS[name]
    model = build(**changes).eval()
    model.embedding = embedding
    for neck in model.necks.values():
        nn.init.normal_(neck.get_buffer("running_mean"))
        nn.init.uniform_(neck.get_buffer("running_var"), 0.5, 2)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith((".gamma", ".alpha", ".beta")):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes the graph of a variant, once."""
    written: dict[tuple[str, GraphFormat], tuple[MSTAT, Path]] = {}

    def graph(name: str, form: GraphFormat) -> tuple[MSTAT, Path]:
        if (name, form) not in written:
            model = variant(name)
            file, difference = write_graph(model, tmp_path_factory.mktemp("graph"), form, {"run": "mars", "seed": 7})
            assert difference < 1e-5
            written[name, form] = model, file
        return written[name, form]

    return graph


def runner(file: Path) -> Callable[[Tensor], Tensor]:
    """The graph as a user runs it."""
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda frames: torch.from_numpy(session.run(None, {"frames": frames.numpy()})[0])


@pytest.mark.parametrize(
    ("name", "form"), [*FAST, *[pytest.param(*case, marks=pytest.mark.soak) for case in SLOW]], ids=str
)
def test_features_are_those_of_embed(name: str, form: GraphFormat, write: Write) -> None:
    """To 1e-5 on features of deviation about 1, in float32, for any number of clips and frames; nothing needs grad."""
    model, file = write(name, form)
    run = runner(file)
    for batch, frames in SHAPES:
        expected = model.embed(clips(batch, frames))
        features = run(clips(batch, frames))
        assert features.dtype == torch.float32
        assert not features.requires_grad
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


@pytest.mark.soak  # compiling takes a minute
def test_a_compiled_program_gives_them_too(tmp_path: Path) -> None:
    """AOTInductor compiles model.pt2 for the machine, with free numbers of clips and frames."""
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("AOTInductor needs a C++ compiler")
    model = variant("plain")
    program = trace(model)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "compiled.pt2"))
    run = torch._inductor.aoti_load_package(package)
    for batch, frames in SHAPES:
        features = run(clips(batch, frames))
        torch.testing.assert_close(features, model.embed(clips(batch, frames)), rtol=0, atol=1e-5)


def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_file_describes_itself(write: Write) -> None:
    """Input, features and origin are in the metadata, the axes have names, and no path of this machine is in it."""
    _, file = write("others", "onnx")
    graph = onnx.load(file)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(metadata["image_size"]) == [32, 16]
    assert json.loads(metadata["stages"]) == {"I": [0, 32], "II": [32, 64]}
    assert (metadata["feature"], metadata["stage_norm"], metadata["dtype"]) == ("neck", "true", "float32")
    assert (metadata["dims"], metadata["run"], metadata["seed"]) == ("64", "mars", "7")
    (frames,), (features,) = graph.graph.input, graph.graph.output
    assert sizes(frames) == ["batch", "frames", 32, 16, 3]
    assert sizes(features) == ["batch", 64]

    _, program = write("plain", "torch")
    extra = {METADATA: ""}
    torch.export.load(program, extra_files=extra)
    assert json.loads(extra[METADATA])["stages"] == {"I": [0, 160], "II": [160, 192], "III": [192, 224]}
    with zipfile.ZipFile(program) as archive:
        contents = [file.read_bytes(), *map(archive.read, archive.namelist())]
    for place in {str(PROJECT), sys.prefix, str(Path(torch.__file__).parent), str(file.parent)}:
        assert not any(place.encode() in content for content in contents)


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_half_precision(form: GraphFormat, tmp_path: Path) -> None:
    """The weights take half of the bytes; features are float32, and those of `mstat.load(...).half()`."""
    single = build(depths=(0, 0, 0), stages=("I", "III"), width=64).eval()
    half = build(depths=(0, 0, 0), stages=("I", "III"), width=64).eval().half()
    file, difference = write_graph(half, tmp_path, form, {})
    assert difference < 0.01
    run = runner(file)
    assert run(clips(3, 5)).dtype == torch.float32
    assert largest_difference(single, run) < 0.02
    weights = sum(tensor.numel() for tensor in single.state_dict().values())
    assert file.stat().st_size < 3.0 * weights + 400_000


def test_a_graph_that_is_wrong_for_another_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that mixes up clips is noticed before the file has its name."""
    right = graphs.Embed.forward

    def wrong(self: graphs.Embed, frames: Tensor) -> Tensor:
        return right(self, frames).flip(0)  # right for one clip

    monkeypatch.setattr(graphs.Embed, "forward", wrong)
    with pytest.raises(UserError, match=r"the features of model.pt2 differ from the model's by"):
        write_graph(build(depths=(0, 0, 0), stages=("I",)).eval(), tmp_path, "torch", {})
    assert not list(tmp_path.iterdir())


def test_a_difference_is_measured() -> None:
    """Another shape or type is infinitely far, NaN is not near, and another clip's features are far off."""
    model = build(depths=(1, 0, 0), stages=("I",)).eval()
    assert largest_difference(model, model.embed) == 0
    assert largest_difference(model, lambda frames: model.embed(frames)[:1]) == float("inf")
    assert largest_difference(model, lambda frames: model.embed(frames).double()) == float("inf")
    assert not largest_difference(model, lambda frames: model.embed(frames) * float("nan")) <= 1
    assert largest_difference(model, lambda frames: model.embed(frames.flip(0))) > 0.01


def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights beyond ONNX's limit, and a missing package, each with the way out; nothing is left behind."""
    model = build(depths=(0, 0, 0), stages=("I",)).eval()
    monkeypatch.setattr(graphs, "MOST_ONNX", 1000)
    with pytest.raises(UserError, match=r"one ONNX file holds at most 2 GiB: use --dtype float16, or --format torch"):
        write_graph(model, tmp_path, "onnx", {})
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs the package onnxscript: pip install 'mstat\[export\]'"):
        write_graph(model, tmp_path, "onnx", {})
    assert not list(tmp_path.iterdir())


def test_the_documented_lines_run(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of docs/export.md, in a folder with the exported files."""
    for form in ("onnx", "torch"):
        shutil.copy(write("plain", form)[1], tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (PROJECT / "docs" / "export.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)  # our own document
        assert names["features"].shape == (2, 224)
