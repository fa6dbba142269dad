"""The YAML files of configs/, which are in every installation: mstat/configs is a link to configs/ in a clone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shards.paths import expand
from shards.terminal import print_line

CONFIGS = (Path(__file__).parents[1] / "configs").resolve()


def find_config(name: str) -> Path:
    """Return the path of a YAML of settings: the file `name`, or else the one of configs/ with that name.

    Both `mars.yaml` and `configs/mars.yaml` name a file of configs/. Rank 0 prints a line if it is used.

    Raises:
        UsageError: If the name begins with `~` and there is no such user.
    """
    path = Path(expand(name))
    packaged = CONFIGS / path.name
    if path.exists() or path not in (Path(path.name), Path("configs", path.name)) or not packaged.is_file():
        return path
    if os.environ.get("RANK", "0") == "0":
        print_line(f"{path} is not in the current folder; using {packaged}", file=sys.stderr)
    return packaged
