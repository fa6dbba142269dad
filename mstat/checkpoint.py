"""Checkpoints of a run: written aside, renamed when whole, the newest whole one wins.

    RUN/checkpoints/step-000000500/   optimizer.pt (weights and optimiser state) or deepspeed/, and checkpoint.json
    RUN/checkpoints/.step-000000500   the same while it is being written or removed; gone with the next save

A name without the dot is a promise: it is given by one rename after every file is on the disk. The learning rate,
the plan and all noise are functions of (seed, step), so weights, optimiser state and the step are the whole state.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from mstat.engine import Engine
from mstat.rollcall import failed_collective

NAME = re.compile(r"step-(\d{9})")
META = "checkpoint.json"
SPARE = 1 << 20  # bytes that are free on a full disk: a file that did not fit leaves less than its last block


def folders(run: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints of a run as (step, folder), oldest first."""
    found = [(NAME.fullmatch(path.name), path) for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match and (path / META).is_file())


def save(engine: Engine, run: Path, step: int, keep: int, facts: dict[str, Any]) -> Path:
    """Write the checkpoint after `step` steps and drop all but the `keep` newest. Every rank calls it.

    Raises:
        OSError: If it cannot be written; the others are as they were.
    """
    final = run / "checkpoints" / f"step-{step:09d}"
    aside = final.with_name("." + final.name)
    if engine.is_main:
        for rest in final.parent.glob(".step-*"):
            shutil.rmtree(rest)
        aside.mkdir(parents=True)
    engine.barrier()
    try:
        engine.save(aside)
    except RuntimeError as error:
        # torch.save says in several ways, and in none of them clearly, that it could not write.
        if failed_collective(error) or shutil.disk_usage(final.parent).free >= SPARE:
            raise
        if engine.is_main:
            shutil.rmtree(aside, ignore_errors=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(final)) from None
    if engine.is_main:
        meta = {"step": step, "world_size": engine.world_size, **facts, "bytes": _sizes(aside)}
        (aside / META).write_text(json.dumps(meta, indent=2) + "\n")
        _to_disk(aside)
        aside.rename(final)
        _sync(final.parent)
        for _, old in folders(run)[: -max(keep, 1)]:
            # First the dot: what a crash leaves of it must not pass for whole.
            shutil.rmtree(old.rename(old.with_name("." + old.name)))
    engine.barrier()
    return final


def restore(engine: Engine, run: Path, facts: dict[str, Any]) -> int:
    """Load the newest whole checkpoint; gives its step, 0 without one. Every rank calls it.

    Raises:
        ValueError: If the checkpoint was made by another kind of run than `facts` describes, or a file of it is cut.
    """
    found = engine.from_main(folders(run)[-1:])
    if not found:
        return 0
    step, folder = found[0]
    meta = json.loads((folder / META).read_text())
    if (sizes := _sizes(folder)) != meta["bytes"]:
        damaged = sorted(name for name in sizes.keys() | meta["bytes"] if sizes.get(name) != meta["bytes"].get(name))
        raise ValueError(
            f"{folder}: {', '.join(damaged)} changed after the checkpoint was made: "
            "copy it anew, or remove the folder to go on from the one before"
        )
    for name, value in facts.items():
        if meta.get(name) != value:
            raise ValueError(
                f"{folder}: made with {name}={meta.get(name)!r}, this run has {value!r}: "
                "launch it as it was, or give another --run folder"
            )
    if engine.is_deepspeed and meta["world_size"] != engine.world_size:
        raise ValueError(
            f"{folder}: DeepSpeed wrote it on {meta['world_size']} processes, here are {engine.world_size}: "
            f"launch with --num_processes {meta['world_size']}, or start a new run from its weights (--model.init)"
        )
    engine.load(folder)
    return step


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != META)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _to_disk(folder: Path) -> None:
    for path in sorted(folder.rglob("*")) + [folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
