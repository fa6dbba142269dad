"""A checkpoint as files: which there are, whether they are what was written, and the weights in them.

    step-000000500/checkpoint.json   the step, the kind of run, and size and checksum of every other file
                   optimizer.pt      of one process or DDP: the weights ("task") and the optimiser's state
                   weights.pt        of DeepSpeed: the weights ("task"), whole, for everything but a resume
                   deepspeed/        of DeepSpeed: what it resumes from, cut by rank

Other files in it are ignored. Nothing here needs the engine, and nothing here runs code of a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from mstat.errors import UserError
from mstat.weights.safe_load import named, printable, read_tensors

NAME = re.compile(r"step-(\d{9})")
META = "checkpoint.json"
OPTIMIZER_FILE = "optimizer.pt"
WEIGHTS_FILE = "weights.pt"
MOST_META = 1 << 26  # bytes of a checkpoint.json; ten thousand ranks write a tenth of it


def folders(run: Path) -> list[tuple[int, Path]]:
    """Return the whole checkpoints of a run as (step, folder), oldest first."""
    matches = [(NAME.fullmatch(path.name), path) for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), path) for match, path in matches if match and (path / META).is_file())


def read_meta(folder: Path) -> dict[str, Any]:
    """Read and check checkpoint.json.

    Raises:
        UserError: If it is not what a run wrote, or if the folder has the name of another step.
    """
    path = folder / META
    try:
        if not path.is_file():
            raise ValueError("not a file")
        if path.stat().st_size > MOST_META:
            raise ValueError(f"larger than {MOST_META:,} bytes")
        meta = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(meta, dict):
            raise ValueError(f"it holds a {type(meta).__name__}, not an object")
        for key, kind in {"step": int, "world_size": int, "bytes": dict}.items():
            if type(meta.get(key)) is not kind:
                raise ValueError(f"{key!r} is missing" if key not in meta else f"{key!r} is not what a run writes")
        if not meta["bytes"]:
            raise ValueError("'bytes' names no file")
        for name, size in meta["bytes"].items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or type(size) is not int:
                raise ValueError("'bytes' is not what a run writes")
        sums = meta.get("sha256", dict.fromkeys(meta["bytes"], ""))  # older versions wrote none
        if not isinstance(sums, dict) or sums.keys() != meta["bytes"].keys():
            raise ValueError("'sha256' is not what a run writes: it does not name the files of 'bytes'")
        if meta["step"] < 0 or meta["world_size"] < 1:
            raise ValueError("'step' or 'world_size' is not what a run writes")
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else printable(" ".join(str(error).split()))
        raise UserError(f"{path}: not the description of a checkpoint: {why}; {way_out(folder)}") from None
    for name in {folder.name, folder.resolve().name}:  # of a link, too
        match = NAME.fullmatch(name)
        if match and int(match[1]) != meta["step"]:
            raise UserError(
                f"{folder}: holds the state after step {meta['step']}, so the folder was renamed: "
                f"call it step-{meta['step']:09d} again, or {way_out(folder)}"
            )
    return meta


def way_out(folder: Path) -> str:
    """Return the way out for a damaged checkpoint, with the name of the one before it."""
    before = [path for _, path in folders(folder.parent.parent) if path.name < folder.name]
    if before:
        return f"copy it anew, or remove the folder to go on from {before[-1]}"
    return "copy it anew, or remove the folder (there is none before it: the run then starts from step 0)"


def damaged(folder: Path, meta: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Return the files that are missing or differ from what was written; each is read once.

    Checkpoints of older versions have no checksums: there those inside torch's archives count.
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
    """Return whether an archive of torch.save is whole by its own checksums; true of any other file."""
    if path.suffix != ".pt":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def refuse_damaged(folder: Path, changed: list[str]) -> None:
    """Raise a UserError that names the files that changed, if any did, and the way out."""
    if changed:
        raise UserError(f"{folder}: {named(changed)} changed after the checkpoint was made: {way_out(folder)}")


def weights_file(folder: Path) -> Path:
    """The file with the whole weights.

    Raises:
        UserError: If there is none: older versions left DeepSpeed's parts alone.
    """
    for name in (WEIGHTS_FILE, OPTIMIZER_FILE):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder}: neither {WEIGHTS_FILE} nor {OPTIMIZER_FILE} in it; DeepSpeed's own files are cut by rank and are "
        "pickles, which nothing but a resume reads: resume the run as it was launched, and take its next checkpoint"
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a run's task, after a check of their content.

    Raises:
        UserError: If the checkpoint is damaged, or holds numbers that are not finite.
    """
    meta = read_meta(folder)
    path = weights_file(folder)
    if path.name not in meta["bytes"]:
        raise UserError(f"{path}: {META} does not name this file: {way_out(folder)}")
    refuse_damaged(folder, damaged(folder, meta, [path.name]))
    weights, _ = read_tensors(path)
    if broken := not_finite(weights):
        raise UserError(f"{path}: holds numbers that are not finite: {named(broken)}; {way_out(folder)}")
    return weights


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of those with a NaN or an infinity."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
