"""Small files that a reader never sees half of: written under another name, renamed when whole. And their reading."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from mstat.errors import UserError


def write_text(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of a run holds.

    Raises:
        UserError: If it holds none, as after a copy that was cut.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged, or no JSON ({error}): copy or make it anew") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: no JSON object, but a {type(content).__name__}: copy or make it anew")
    return content
