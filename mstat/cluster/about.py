"""Read `FOLDER/job/job.json`, which names the job of a folder.

The folder may come from an untrusted source. So each value is checked, and of a path only the last part is used:
scripts and logs must lie in the folder itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from mstat.cluster import restarts
from mstat.cluster.job import MAX_ELEMENTS, Kind
from mstat.cluster.restarts import FOLDER
from mstat.errors import UserError
from shards.text import breaks_lines, printable

SLURM_ID = re.compile(r"\d{1,18}(_\d{1,9})?")
MAX_PID = 1 << 31


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 4096 and not breaks_lines(value)


def _is_id(value: Any) -> bool:
    return SLURM_ID.fullmatch(value) is not None if isinstance(value, str) else type(value) is int and value > 1


def _is_array(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, list) or len(value) != 2 or not all(type(bound) is int for bound in value):
        return False
    return 0 <= value[0] <= value[1] and value[1] - value[0] < MAX_ELEMENTS


CHECKS: dict[str, Callable[[Any], bool]] = {
    "scheduler": lambda value: value in ("slurm", "local"),
    "id": _is_id,
    "collector": _is_id,
    "kind": lambda value: value in get_args(Kind),
    "array": _is_array,
    "name": lambda value: _is_name(value) and "/" not in value,
    "host": _is_name,
    "script": _is_name,
    "log": _is_name,
    "command": lambda value: isinstance(value, str),
}


def read_about(folder: Path) -> dict[str, Any]:
    """Return the checked content of a folder's job.json, or an empty dict if there is no such file.

    Returns:
        The values. `script` and `log` are paths in the folder, or for an element of an array in the array's folder.

    Raises:
        UserError: If a value is not one that launch/submit.py writes.
    """
    path = folder / FOLDER / "job.json"
    about = restarts.read_json(path)
    for key, is_valid in CHECKS.items():
        if key in about and not is_valid(about[key]):
            value = printable(repr(about[key])[:60])
            raise UserError(f"{path}: {key} is {value}, which launch/submit.py does not write; remove this file")
    if about.get("scheduler") == "local" and "id" in about:
        about["id"] = int(str(about["id"]).partition("_")[0])
        if not 1 < about["id"] < MAX_PID:
            raise UserError(f"{path}: id is {about['id']}, which is not a process id; remove this file")
    if "script" in about:
        about["script"] = str(folder / FOLDER / Path(about["script"]).name)
    if "log" in about:
        about["log"] = str(_log(folder, Path(about["log"]).name))
    return about


def _log(folder: Path, name: str) -> Path:
    """Find a log by name in job/ of the folder, or of the array or run that contains the folder."""
    candidates = [owner / FOLDER / name for owner in (folder, *folder.parents[:3])]
    return next((path for path in candidates if path.is_file()), candidates[0])
