"""Check the command line after `--` before the job is queued: a job must not wait for hours and then fail."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mstat.cluster.restarts import FOLDER
from mstat.cluster.sites import PROJECT
from mstat.config.cli import parse
from mstat.config.packaged import CONFIGS
from mstat.errors import UserError
from shards.paths import path

KINDS = {
    "train": "launch/train.py",
    "evaluate": "launch/evaluate.py",
    "pretrain": "launch/pretrain.py",
    "reproduce": "launch/reproduce.py",
    "shards": "python -m shards",
}
DEFAULTS = {"train": "synthetic.yaml", "pretrain": "actions.yaml"}  # defaults of --config
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def target(kind: str, arguments: Sequence[str], directory: Path | None = None) -> tuple[Path, int]:
    """Return the absolute folder of a command's job, and the first index of its job array.

    Args:
        directory: The folder in which the command is started; None is the current folder.

    Raises:
        UserError: If the command does not exist or lacks an option.
        SystemExit: With status 2, after a message, if a setting is unknown or out of range.
    """
    script = PROJECT / "launch" / f"{kind}.py"
    if kind != "shards" and not script.is_file():
        raise UserError(f"{script}: no such file")
    if kind in DEFAULTS:
        config = parse(arguments, CONFIGS / DEFAULTS[kind], prog=KINDS[kind])
        return (directory or Path.cwd()) / config.run, config.seed
    if kind == "evaluate":
        run = _option(arguments, "--run")
        if not (run / "config.yaml").is_file():
            raise UserError(f"{run}: no config.yaml in it: --run must be a folder that launch/train.py made")
        return run / FOLDER / "evaluate", 0  # job/ of the run folder itself records its training
    if kind == "shards":
        if list(arguments[:1]) != ["build"]:
            raise UserError("--job shards takes `build` only: -- build SOURCE ... --out DIR")
        out = _option(arguments, "--out")
        return out.with_name(f"{out.name}-job"), 1  # beside the folder, which the build creates
    return _option(arguments, "--out", "the folder that all tasks share"), 1


def _option(arguments: Sequence[str], name: str, why: str = "") -> Path:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, type=path, dest="value")
    result: Path | None = parser.parse_known_args(list(arguments))[0].value
    if result is None:
        raise UserError(f"{name} is missing after --" + (f": {why}" if why else ""))
    return result.absolute()


def seconds(limit: str) -> int | None:
    """Parse a time limit of sbatch (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S); return None for words like UNLIMITED."""
    match = _TIME.fullmatch(limit)
    if match is None:
        return None
    parts = [int(part) for part in (match["first"], match["second"], match["third"]) if part is not None]
    if match["days"] is not None:
        hours, minutes, rest = [*parts, 0, 0][:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + rest
    if len(parts) == 3:
        return (parts[0] * 60 + parts[1]) * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
