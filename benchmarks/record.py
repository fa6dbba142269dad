"""What every record in this folder says of itself: command, machine, date, commit and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit of this tree, with `-dirty` behind it where files differ from it."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def conditions(target: str) -> str:
    """The sentence under a record's title."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "accelerate", "numpy"))
    return (
        f"`make {target}` on {os.cpu_count()} CPU cores ({platform.machine()}), {datetime.now(UTC):%Y-%m-%d}, "
        f"commit {commit()}; {versions}."
    )


def save(what: str, text: str) -> None:
    """Print a record, and write it to benchmarks/<what>_<hardware>_<date>.md."""
    name = f"{what}_{os.cpu_count()}-cpu-{platform.machine()}_{datetime.now(UTC):%Y-%m-%d}.md"
    (PROJECT / "benchmarks" / name).write_text(text)
    print(text)
    print(f"written to benchmarks/{name}")
