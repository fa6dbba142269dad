"""Functions that commands share: options of runs, and errors as one message and an exit status."""

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

from mstat.errors import UserError
from shards.paths import path
from shards.text import printable

if TYPE_CHECKING:
    from mstat.config import Config

PROJECT = Path(__file__).resolve().parents[1]
SYNTHETIC_CONFIG = PROJECT / "configs" / "synthetic.yaml"


def run_parser(prog: str, description: str | None, example: str, required: bool = True) -> argparse.ArgumentParser:
    """The command line of what is done with a trained run: --run, and any setting besides, as in `example`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Any setting of launch/train.py may follow, as in {example}.",
    )
    parser.add_argument("--run", type=path, required=required, help="run folder that launch/train.py made")
    return parser


def checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, for what can be done with the weights of a run that is not finished."""
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="folder of a checkpoint (RUN/checkpoints/step-...), or its step, or newest, or best (train.keep_best)",
    )


def run_of(arguments: argparse.Namespace) -> Path:
    """--run, or the run in whose folder --checkpoint lies."""
    if arguments.run is None and arguments.checkpoint is None:
        raise UserError("which run? Give --run DIR, or --checkpoint DIR/checkpoints/step-...")
    run: Path = arguments.run or Path(arguments.checkpoint).absolute().parent.parent
    return run


def config_of_run(run: Path, overrides: Sequence[str]) -> Config:
    """The settings of a run folder, changed by flags. Raises UserError where it is none; bad flags exit with 2."""
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
        taken = f"data.shards: {recorded} is not in this folder; taken: {config.data.shards}"
        print(printable(taken), file=sys.stderr)
    if config.model.init:
        config = changed(config, {"model.init": find_file(run, config.model.init)})
    return config


def report_errors(command: Callable[[], None]) -> int:
    """Run a command and return its exit status.

    An error that a user can mend is printed in one line; any other keeps its traceback, since it is a fault of ours.
    `MSTAT_DEBUG=1` prints the traceback of both.
    """
    from mstat.distributed.signals import end_with_launcher
    from shards.terminal import print_anything

    print_anything()
    end_with_launcher()
    try:
        command()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        mendable = _can_be_mended(error)
        logging.getLogger("mstat").error("%s", last_line(error), exc_info=error)  # in RUN/run.log, if a run has begun
        # Each in one piece: print writes the end of the line apart, and another rank's message would come between.
        if not mendable or os.environ.get("MSTAT_DEBUG") == "1":
            sys.stderr.write(printable(traceback.format_exc(), keep="\n\t"))
        if mendable:
            rank = os.environ.get("RANK", "0")
            message = "; ".join([last_line(error), *getattr(error, "__notes__", [])])
            sys.stderr.write(f"{'' if rank == '0' else f'[rank {rank}] '}error: {printable(message)}\n")
        if os.environ.get("WORLD_SIZE", "1") != "1":
            # The threads of a broken collective would abort an orderly exit, or wait in it.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 1
    return 0


# What the machine lacks, where the system names no file with it.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EIO}


def _can_be_mended(error: Exception) -> bool:
    """Return whether the user can mend the cause: input, a file, the machine, another rank; not a fault of the code."""
    from mstat.distributed.lost_rank import LostRankError
    from mstat.runs.folder import NotFiniteError
    from shards.records import DataError, UsageError

    if isinstance(error, OSError):
        of_network = isinstance(error, TimeoutError | ConnectionError)
        return of_network or error.filename is not None or error.errno in MACHINE_ERRORS
    return isinstance(error, UserError | DataError | UsageError | NotFiniteError | LostRankError)


def last_line(error: BaseException) -> str:
    """The message in one line."""
    return " ".join(str(error).split())
