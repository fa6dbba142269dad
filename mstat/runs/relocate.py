"""Resolve relative paths in a run's settings from another folder than the one in which the run started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mstat.files import read_plain_json


def find_shards(run: Path, shards: str) -> str:
    """Resolve a run's `data.shards` from the current folder, else from the folder in which the run started.

    Runs of older versions did not record that folder. For them, and for a moved project, the folders above the run
    folder are tried: a data set there is used only if its checksum is the recorded one.

    Returns:
        `shards` itself if no data set is there; opening it reports what is missing.
    """
    if "://" in shards or Path(shards).is_absolute() or Path(shards).is_dir():
        return shards
    environment = _environment(run)
    began, checksum = environment.get("folder"), environment.get("shards_checksum")
    if isinstance(began, str) and _checksum(Path(began) / shards):
        return str(Path(began) / shards)
    for folder in run.resolve().parents:
        result = _checksum(folder / shards)
        if result and result == (checksum or result):
            return str(folder / shards)
    return shards


def find_file(run: Path, file: str) -> str:
    """Resolve a file, such as `model.init`, from the current folder, else from the folder in which the run started."""
    began = _environment(run).get("folder")
    elsewhere = Path(began if isinstance(began, str) else ".") / file
    return str(elsewhere) if not Path(file).exists() and elsewhere.exists() else file


def _environment(run: Path) -> dict[str, Any]:
    """Return environment.json of a run, or of the first run in a folder of all splits."""
    for path in _environments(run):
        try:
            content = read_plain_json(path)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            return content
    return {}


def _environments(run: Path) -> Iterator[Path]:
    yield run / "environment.json"
    yield from sorted(run.glob("split-*/environment.json"))


def _checksum(folder: Path) -> str | None:
    """Return the checksum of the data set in a folder; None if there is none."""
    from shards.index import DESCRIPTION_FILE

    try:
        checksum = read_plain_json((folder / DESCRIPTION_FILE).resolve())["checksum"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return checksum if isinstance(checksum, str) else None
