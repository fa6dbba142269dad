"""Functions that commands share: options of runs, and errors as a one-line message and an exit status."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mstat.config.packaged import CONFIGS
from mstat.errors import UserError
from shards.paths import path
from shards.terminal import print_anything, print_line

if TYPE_CHECKING:
    from mstat.config import Config

SYNTHETIC_CONFIG = CONFIGS / "synthetic.yaml"


def run_parser(prog: str, description: str | None, example: str, required: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a command on a trained run: --run, and any setting, as in `example`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Any setting of launch/train.py may follow, such as {example}.",
    )
    parser.add_argument("--run", type=path, required=required, help="run folder that launch/train.py made")
    return parser


def checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint, for commands that accept a run that is not finished."""
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="checkpoint: its folder (RUN/checkpoints/step-...), its step, newest, or best (train.keep_best)",
    )


def run_of(arguments: argparse.Namespace) -> Path:
    """Return --run, or the run folder of --checkpoint."""
    if arguments.run is None and arguments.checkpoint is None:
        raise UserError("no run is given: give --run DIR, or --checkpoint DIR/checkpoints/step-...")
    run: Path = arguments.run or Path(arguments.checkpoint).absolute().parent.parent
    return run


def config_of_run(run: Path, overrides: Sequence[str]) -> Config:
    """Return the settings of a run folder, overridden by flags. Raises UserError; bad flags exit with status 2."""
    from mstat.config import changed
    from mstat.config.cli import parse
    from mstat.runs.relocate import find_file, find_shards

    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: no config.yaml in it: --run must be a folder that launch/train.py made")
    argv = ["--config", str(run / "config.yaml"), "--run", str(run), *overrides]
    config = parse(argv, prog=str(run / "config.yaml"))
    recorded = config.data.shards
    config = changed(config, {"data.shards": find_shards(run, recorded)})
    if config.data.shards != recorded and os.environ.get("RANK", "0") == "0":
        note = f"data.shards: {recorded} is not in the current folder; using {config.data.shards}"
        print_line(note, file=sys.stderr)
    if config.model.init:
        config = changed(config, {"model.init": find_file(run, config.model.init)})
    return config


def report_errors(command: Callable[[], None]) -> int:
    """Run a command and return its exit status.

    An error that a user can fix is printed in one line; any other error is a bug and keeps its traceback.
    `MSTAT_DEBUG=1` prints the traceback of both.
    """
    from mstat.distributed.signals import end_with_launcher

    print_anything()
    end_with_launcher()
    try:
        command()
    except KeyboardInterrupt:
        print_line("stopped by Ctrl-C; re-run the same command to resume", file=sys.stderr)
        return 130
    except Exception as error:
        is_fixable = _is_fixable(error)
        logging.getLogger("mstat").error("%s", last_line(error), exc_info=error)  # in RUN/run.log, if a run has begun
        if not is_fixable or os.environ.get("MSTAT_DEBUG") == "1":
            print_line(traceback.format_exc().rstrip(), "\n\t", sys.stderr)
        if is_fixable:
            rank = os.environ.get("RANK", "0")
            message = "; ".join([last_line(error), *getattr(error, "__notes__", [])])
            print_line(f"{'' if rank == '0' else f'[rank {rank}] '}error: {message}", file=sys.stderr)
        if os.environ.get("WORLD_SIZE", "1") != "1":
            # Threads of a broken collective could abort or block an orderly exit.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 1
    return 0


# Errors of the machine, for which the system names no file.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EIO}


def _is_fixable(error: Exception) -> bool:
    """Return whether the user can fix the cause: input, a file, the machine, another rank; not a bug."""
    from mstat.distributed.lost_rank import LostRankError
    from mstat.runs.folder import NotFiniteError
    from shards.records import DataError, UsageError

    if isinstance(error, OSError):
        of_network = isinstance(error, TimeoutError | ConnectionError)
        return of_network or error.filename is not None or error.errno in MACHINE_ERRORS
    return isinstance(error, UserError | DataError | UsageError | NotFiniteError | LostRankError)


def last_line(error: BaseException) -> str:
    """Return the message in one line."""
    return " ".join(str(error).split())
