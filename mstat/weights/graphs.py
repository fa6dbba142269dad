"""Write a model as a graph that other runtimes can run: an ONNX file, or a program of torch.export.

A graph takes uint8 frames of the model's size and returns what `MSTAT.embed` returns for them. The numbers of clips and
of frames are free. Nothing of training is in a graph: no temporal patch shuffling, no drop path, no classifier.

Shapes: B clips, T frames, H x W pixels, C colours, D length of the joined features.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import warnings
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mstat.errors import UserError
from mstat.model import MSTAT, feature_dims, join_stages
from mstat.provenance import versions

GraphFormat = Literal["onnx", "torch"]
FILES: dict[GraphFormat, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
METADATA = "mstat.json"  # among the extra files of a program of torch.export
FREE = {0: "batch", 1: "frames"}  # axes of the input without a fixed size
TRACED = (2, 3)  # B, T; sizes of 1 would be taken for constants
CHECKED = ((1, 1), (1, 4), (3, 2))  # B, T; none was traced
# The largest difference from the model, on features of deviation 1. A graph that is wrong for other shapes is off by 1.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-2}
MOST_ONNX = 2**31 - 2**24  # bytes of weights: protobuf ends at 2 GiB, and the graph itself needs some


class Embed(nn.Module):
    """`MSTAT.embed` without resizing: uint8 frames (B, T, H, W, 3) -> float32 features (B, D)."""

    def __init__(self, model: MSTAT) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        feature, stage_norm = self.model.embedding
        return join_stages(self.model.compared(frames_BTHWC, feature), stage_norm)


def write_graph(model: MSTAT, folder: Path, form: GraphFormat, source: dict[str, Any]) -> tuple[Path, float]:
    """Write a model in its own precision to a folder, as `model.onnx` or `model.pt2`, and run the file once.

    Args:
        model: A model with PyTorch's own layers, as `mstat.load` returns it, in float32 or float16, on the CPU.
        source: Entries of the metadata that the model does not know, such as its run.

    Returns:
        The file, and the largest difference of its features from the model's, on clips of shapes that were not traced.

    Raises:
        UserError: If a package is missing, the weights are too large for the format, or the features differ.
    """
    if form == "onnx":
        _check_onnx(model)
    metadata = {**describe(model), **source}
    program = trace(model)
    tmp = folder / f".{FILES[form]}"  # torch.export wants the suffix
    try:
        if form == "onnx":
            _save_onnx(program, tmp, metadata)
            run = _run_onnx(tmp)
        else:
            torch.export.save(program, tmp, extra_files={METADATA: json.dumps(metadata, indent=2)})
            run = torch.export.load(tmp).module()
        difference = largest_difference(model, run)
        if not difference <= TOLERANCE[model.stem.position.dtype]:
            raise UserError(
                f"the features of {FILES[form]} differ from the model's by {difference:.2g}, so it was not written: "
                "use another --format, and please report it"
            )
        tmp.replace(folder / FILES[form])
    finally:
        tmp.unlink(missing_ok=True)
    return folder / FILES[form], difference


def describe(model: MSTAT) -> dict[str, Any]:
    """Return the metadata of a graph that the model knows: its input, its features and the precision of its weights."""
    config, stem = model.config, model.stem
    dims = feature_dims(config)
    ends = list(accumulate(dims))
    return {
        "mstat": versions()["mstat"],
        "input": "frames: uint8 RGB, batch x frames x height x width x 3; batch and frames are free, from 1",
        "image_size": list(config.image_size),
        "resize": "before the graph, if frames have another size: bilinear, antialiased, rounded to bytes",
        "normalise": "in the graph, with pixel_mean and pixel_std of values / 255",
        "pixel_mean": [round(value, 6) for value in stem.pixel_mean.tolist()],
        "pixel_std": [round(value, 6) for value in stem.pixel_std.tolist()],
        "output": "features: float32, batch x dims; compare by cosine similarity",
        "dims": ends[-1],
        "stages": {stage: [end - dim, end] for stage, dim, end in zip(config.stages, dims, ends, strict=True)},
        "feature": model.embedding.feature,
        "stage_norm": model.embedding.stage_norm,
        "dtype": str(stem.position.dtype).removeprefix("torch."),
    }


def trace(model: MSTAT) -> ExportedProgram:
    """Return a program of torch.export with free numbers of clips and frames, and without paths of this machine."""
    frames_BTHWC = torch.zeros(*TRACED, *model.config.image_size, 3, dtype=torch.uint8)
    free = {axis: Dim(name, min=1) for axis, name in FREE.items()}
    frozen = copy.deepcopy(model).requires_grad_(False).eval()  # a program records which weights are trained
    program = torch.export.export(Embed(frozen), (frames_BTHWC,), dynamic_shapes=(free,))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names the files of this installation
    return program


def largest_difference(model: MSTAT, run: Callable[[Tensor], Tensor]) -> float:
    """Return the largest difference between features of a graph and of its model, whose deviation is scaled to 1."""
    generator = torch.Generator().manual_seed(0)
    differences = [0.0]
    for batch, frames in CHECKED:
        shape = (batch, frames, *model.config.image_size, 3)
        frames_BTHWC = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        expected_BD = model.embed(frames_BTHWC)
        with torch.no_grad():
            features_BD = run(frames_BTHWC)
        if features_BD.shape != expected_BD.shape or features_BD.dtype != expected_BD.dtype:
            return float("inf")
        differences.append(float((features_BD - expected_BD).abs().max() / expected_BD.std()))
    return max(differences, key=lambda value: (value != value, value))  # NaN is the largest


def _check_onnx(model: MSTAT) -> None:
    """Raise UserError if a package is missing, or the weights are too large for one file."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"--format onnx needs the package {error.name}: pip install 'mstat[export]', or use --format torch"
            ) from None
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > MOST_ONNX:
        raise UserError(
            f"the weights have {size:,} bytes, and one ONNX file holds at most 2 GiB: use --dtype float16, or "
            "--format torch, which has no such limit"
        )


def _save_onnx(program: ExportedProgram, file: Path, metadata: dict[str, Any]) -> None:
    import onnx_ir

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # torchvision is missing, and not needed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about torch's own calls
            graph = torch.onnx.export(
                program, input_names=["frames"], output_names=["features"], dynamic_shapes=(FREE,), verbose=False
            )
    finally:
        logger.setLevel(level)
    assert graph is not None
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph.model.graph):
        node.metadata_props.clear()  # where in which module it was traced
    for key, value in metadata.items():
        graph.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    graph.save(file, external_data=False)


def _run_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda frames_BTHWC: torch.from_numpy(session.run(None, {"frames": frames_BTHWC.numpy()})[0])
