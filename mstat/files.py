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
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")  # names on a disk need not be UTF-8
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
