"""Facts that must be equal on all processes of a launch: settings, data, code.

Each process reads its own command line and files. If one had another learning rate, or another data set of the same
size, the run would train a mixture without an error. The facts are compared once, before the processes form a group
(mstat/distributed/rendezvous.py). launch/preflight.py shows the same differences in its table.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mstat.config import Config
from mstat.config.cli import flat
from mstat.distributed.launcher import is_on
from mstat.provenance import PROJECT, commit, source_digest, versions
from shards.index import load_description
from shards.records import DataError, UsageError
from shards.storage import open_files

# Hosts may have different paths (a copy on a local disk), so contents are compared instead. They may have different
# numbers of cores: the number of workers does not affect results.
LOCAL = ("data.shards", "data.num_workers", "model.init")


def common_facts(config: Config, also: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the facts that must be equal on every process: JSON values by the name that a message uses.

    An unreadable file is left out; the error when it is opened says more.

    Args:
        also: Further facts; a path stands for the content of the file or folder.
    """
    facts = {"command": command_name(), **settings_facts(config)}
    for name, value in (also or {}).items():
        facts |= contents(name, value) if isinstance(value, Path) else {name: value}
    facts |= set_checksum("data.shards", config.data.shards)
    facts["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    facts |= {"commit": commit(), "source files (checksum)": source_digest(PROJECT), **versions()}
    return dict(json.loads(json.dumps(facts, default=str)))


def command_name() -> str:
    """Return the name of the command of this process: `train`, for launch/train.py and for `mstat train`."""
    program = Path(sys.argv[0])
    return sys.argv[1] if program.name == "mstat" and len(sys.argv) > 1 else program.stem


def set_checksum(name: str, place: str) -> dict[str, str]:
    """Return the checksum of a data set as a fact; empty if it is unreadable."""
    with suppress(DataError, UsageError, OSError):
        return {f"{name} (checksum)": load_description(open_files(place, cache=None, cache_gb=None))[1]}
    return {}


def settings_facts(config: Config) -> dict[str, Any]:
    """Return the settings, the checksum of `model.init`, the number of processes and the kind of parallelism."""
    facts = {key: value for key, value in flat(asdict(config)).items() if key not in LOCAL}
    if config.model.init:
        facts |= contents("model.init", Path(config.model.init))
    facts["number of processes"] = int(os.environ.get("WORLD_SIZE", "1"))
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    facts["parallelism"] = f"zero{stage}" if is_on("ACCELERATE_USE_DEEPSPEED") else "ddp"
    return facts


def contents(name: str, path: Path) -> dict[str, str]:
    """Return the checksum of a file, or of a folder's files; of files in subfolders, names and sizes alone count."""
    digest = hashlib.sha256()
    try:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
            if file.parent in (path, path.parent):
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError:
        return {}
    return {f"{name} (checksum)": digest.hexdigest()} if files else {}
