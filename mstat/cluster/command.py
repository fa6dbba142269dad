"""Checks of the command line after `--`, before a job waits in a queue for hours and then fails."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mstat.cluster.restarts import FOLDER
from mstat.cluster.sites import PROJECT
from mstat.config.cli import parse
from mstat.errors import UserError
from shards.paths import path

KINDS = {
    "train": "launch/train.py",
    "evaluate": "launch/evaluate.py",
    "pretrain": "launch/pretrain.py",
    "reproduce": "launch/reproduce.py",
    "shards": "python -m shards",
}
CONFIGS = {"train": "synthetic.yaml", "pretrain": "actions.yaml"}  # without a --config
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def target(kind: str, arguments: Sequence[str], directory: Path | None = None) -> tuple[Path, int]:
    """The absolute folder of a command's results, and the first index of its job array.

    Args:
        directory: Where the command is started: here, if it is None.

    Raises:
        ValueError: If the command does not exist or lacks what it needs.
        SystemExit: With 2, if a setting is unknown or out of range, after a line that says which.
    """
    script = PROJECT / "launch" / f"{kind}.py"
    if kind != "shards" and not script.is_file():
        raise UserError(f"there is no {script}")
    if kind in CONFIGS:
        config = parse(arguments, PROJECT / "configs" / CONFIGS[kind], prog=KINDS[kind])
        return (directory or Path.cwd()) / config.run, config.seed
    if kind == "evaluate":
        run = _option(arguments, "--run")
        if not (run / "config.yaml").is_file():
            raise UserError(f"{run}: no config.yaml in it: --run must be a folder that launch/train.py made")
        return run / FOLDER / "evaluate", 0  # the run folder's own account is of its training
    if kind == "shards":
        if list(arguments[:1]) != ["build"]:
            raise UserError("--job shards is for `build`: -- build SOURCE ... --out DIR")
        out = _option(arguments, "--out")
        return out.with_name(f"{out.name}-job"), 1  # a build makes its folder itself
    return _option(arguments, "--out", "so that all tasks of the experiment have one folder"), 1


def _option(arguments: Sequence[str], name: str, why: str = "") -> Path:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, type=path, dest="value")
    result: Path | None = parser.parse_known_args(list(arguments))[0].value
    if result is None:
        raise UserError(f"{name} is missing after --" + (f", {why}" if why else ""))
    return result.absolute()


def seconds(limit: str) -> int | None:
    """A time limit as sbatch takes it (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S); None for words like UNLIMITED."""
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
