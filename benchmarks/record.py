"""What every record in this folder says of itself: command, machine, date, commit and versions.

A benchmark also keeps its figures in benchmarks/.figures/, from which table.py makes the one table of `make bench`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

PROJECT = Path(__file__).resolve().parents[1]
FIGURES = PROJECT / "benchmarks" / ".figures"


class Figure(NamedTuple):
    """A row of the one table.

    Attributes:
        what: What was measured, and on what.
        ours, theirs: The two figures, with their unit, and who the other is.
        ratio: How many times better ours is; below 1 it is worse.
        wanted: The least ratio (or the most of the unit) that the project asks for.
        limit: What the machine would allow, measured or counted in the same run.
        share: Part of that limit that is reached, 0 to 1.
    """

    what: str
    ours: str
    rival: str = ""
    theirs: str = ""
    ratio: float | None = None
    wanted: str = ""
    limit: str = ""
    share: float | None = None


def commit() -> str:
    """The commit of this tree, with `-dirty` behind it where files differ from it, other than records."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/*.md", ":!benchmarks/*.svg")
    return git("rev-parse", "--short", "HEAD") + "-dirty" * bool(changed)


def conditions(target: str) -> str:
    """The sentence under a record's title."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "accelerate", "numpy"))
    return f"`make {target}` on {_machine()}, {datetime.now(UTC):%Y-%m-%d}, commit {commit()}; {versions}."


def _machine() -> str:
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{torch.cuda.get_device_name()} and {cores}" if torch.cuda.is_available() else cores


def hardware() -> str:
    """As in a record's file name."""
    if torch.cuda.is_available():
        return "-".join([str(torch.cuda.device_count()), *torch.cuda.get_device_name().lower().split()])
    return f"{os.cpu_count()}-cpu-{platform.machine()}"


def stem(what: str) -> str:
    """File name of a record, and of the pictures beside it, without its end."""
    return f"{what}_{hardware()}_{datetime.now(UTC):%Y-%m-%d}"


def save(what: str, text: str, figures: Sequence[Figure] = ()) -> None:
    """Print a record, write it to benchmarks/<what>_<hardware>_<date>.md, and keep its figures for the one table."""
    name = f"{stem(what)}.md"
    (PROJECT / "benchmarks" / name).write_text(text)
    if figures:
        FIGURES.mkdir(exist_ok=True)
        (FIGURES / f"{what}.json").write_text(json.dumps([figure._asdict() for figure in figures], indent=2) + "\n")
    print(text)
    print(f"written to benchmarks/{name}")
