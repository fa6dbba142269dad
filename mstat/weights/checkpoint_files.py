"""The files of a checkpoint: list checkpoints, verify their files, read their weights.

    step-000000500/checkpoint.json   the step, the kind of run, and size and checksum of every other file
                   optimizer.pt      of one process or DDP: the weights ("task") and the optimiser's state
                   weights.pt        of DeepSpeed: the complete weights ("task"), for all uses but a resume
                   average.pt        with `train.ema`: the average of the complete weights ("task"), which all uses
                                     but a resume take in their place
                   deepspeed/        of DeepSpeed: the state that a resume reads, partitioned by rank

Other files in the folder are ignored. Nothing here needs the engine, and nothing here runs code of a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, MutableMapping
from pathlib import Path, PurePosixPath
from typing import Any, NotRequired, TypedDict, cast

from torch import Tensor

from mstat.errors import UserError
from mstat.weights.safe_load import named, printable, read_tensors

NAME = re.compile(r"step-(\d{9})")
META = "checkpoint.json"
OPTIMIZER_FILE = "optimizer.pt"
WEIGHTS_FILE = "weights.pt"
AVERAGE_FILE = "average.pt"
MOST_META = 1 << 26  # bytes of a checkpoint.json; that of ten thousand ranks is a tenth of this


class CheckpointMeta(TypedDict):
    """checkpoint.json: the step, sizes and checksums of the files, and the facts that a resume compares.

    More facts than the two that other modules read may follow. Older versions wrote no checksums.
    """

    step: int
    world_size: int
    bytes: dict[str, int]
    sha256: NotRequired[dict[str, str]]
    model: NotRequired[dict[str, Any]]
    pretrain: NotRequired[dict[str, Any]]


def folders(run: Path) -> list[tuple[int, Path]]:
    """Return the complete checkpoints of a run as (step, folder), oldest first."""
    matches = [(NAME.fullmatch(path.name), path) for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), path) for match, path in matches if match and (path / META).is_file())


def read_meta(folder: Path) -> CheckpointMeta:
    """Read and check checkpoint.json.

    Raises:
        UserError: If it is damaged, or if the folder has the name of another step.
    """
    path = folder / META
    try:
        if not path.is_file():
            raise ValueError("not a file")
        if path.stat().st_size > MOST_META:
            raise ValueError(f"larger than {MOST_META:,} bytes")
        meta = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(meta, dict):
            raise ValueError("it is not a JSON object")
        for key, kind in {"step": int, "world_size": int, "bytes": dict}.items():
            if type(meta.get(key)) is not kind:
                raise ValueError(
                    f"{key!r} is missing" if key not in meta else f"{key!r} is not of type {kind.__name__}"
                )
        if not meta["bytes"]:
            raise ValueError("'bytes' names no file")
        for name, size in meta["bytes"].items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or type(size) is not int:
                raise ValueError("'bytes' must map relative paths to sizes")
        sums = meta.get("sha256", dict.fromkeys(meta["bytes"], ""))  # older versions did not write it
        if not isinstance(sums, dict) or sums.keys() != meta["bytes"].keys():
            raise ValueError("'sha256' does not name the files of 'bytes'")
        if meta["step"] < 0 or meta["world_size"] < 1:
            raise ValueError("'step' or 'world_size' is too small")
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else printable(" ".join(str(error).split()))
        raise UserError(f"{path}: not a checkpoint description: {why}; {way_out(folder)}") from None
    for name in {folder.name, folder.resolve().name}:  # also behind a link
        match = NAME.fullmatch(name)
        if match and int(match[1]) != meta["step"]:
            raise UserError(
                f"{folder}: holds the state after step {meta['step']}, so the folder was renamed: "
                f"rename it to step-{meta['step']:09d}, or {way_out(folder)}"
            )
    return cast(CheckpointMeta, meta)


def way_out(folder: Path) -> str:
    """Return the advice for a damaged checkpoint, which names the one before it."""
    before = [path for _, path in folders(folder.parent.parent) if path.name < folder.name]
    if before:
        return f"copy it again, or remove the folder to resume from {before[-1]}"
    return "copy it again, or remove the folder (no older checkpoint exists: the run then starts from step 0)"


def damaged(folder: Path, meta: CheckpointMeta, names: Iterable[str]) -> list[str]:
    """Return the files that are missing or changed since they were written. Each is read once.

    For checkpoints of older versions, which have no checksums, those inside torch's archives are verified.
    """
    changed = []
    for name in names:
        path, expected = folder / name, meta.get("sha256", {}).get(name)
        same = path.is_file() and path.stat().st_size == meta["bytes"][name]
        if not (same and (is_sound(path) if expected is None else checksum(path) == expected)):
            changed.append(name)
    return changed


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_sound(path: Path) -> bool:
    """Return whether an archive of torch.save matches its own checksums; True for any other file."""
    if path.suffix != ".pt":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def refuse_damaged(folder: Path, changed: list[str]) -> None:
    """Raise a UserError that names the changed files, if there are any."""
    if changed:
        raise UserError(f"{folder}: {named(changed)} changed after the checkpoint was made; {way_out(folder)}")


def weights_file(folder: Path) -> Path:
    """Return the file with the complete weights.

    Raises:
        UserError: If there is none: older versions wrote only DeepSpeed's partitioned files.
    """
    for name in (WEIGHTS_FILE, OPTIMIZER_FILE):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder}: has neither {WEIGHTS_FILE} nor {OPTIMIZER_FILE}; only a resume reads DeepSpeed's own files, which "
        "are pickles partitioned by rank: resume the run as it was launched, and use its next checkpoint"
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Verify and return the weights of a run's task; with `train.ema`, their average.

    Raises:
        UserError: If the checkpoint is damaged, or a weight is not finite.
    """
    meta = read_meta(folder)
    path = folder / AVERAGE_FILE if AVERAGE_FILE in meta["bytes"] else weights_file(folder)
    if path.name not in meta["bytes"]:
        raise UserError(f"{path}: {META} does not name this file; {way_out(folder)}")
    refuse_damaged(folder, damaged(folder, meta, [path.name]))
    weights, _ = read_tensors(path)
    rename_necks(weights)
    if broken := not_finite(weights):
        raise UserError(f"{path}: tensors are not finite: {named(broken)}; {way_out(folder)}")
    return weights


def rename_necks(weights: MutableMapping[str, Any]) -> None:
    """Rename, in place, the BNNecks of a task's weights that versions before 0.2 kept in its heads."""
    for key in [key for key in weights if re.fullmatch(r"heads\.\w+\.neck\.\w+", key)]:
        value, (_, stage, _, part) = weights.pop(key), key.split(".")
        if part != "num_batches_tracked":
            weights[f"model.necks.{stage}.{part}"] = value


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors with a NaN or an infinity."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
