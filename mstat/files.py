"""Small files that a reader never sees half of: written under another name, renamed when whole."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def why_not_writable(folder: Path) -> OSError | None:
    """What keeps files from being written to a folder, which is made if it is missing; None if nothing does."""
    probe = folder / f".probe.{platform.node()}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        return error
    return None
