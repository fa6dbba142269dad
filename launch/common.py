"""What the commands share: where the project lies, and how an error becomes one message and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SYNTHETIC_CONFIG = PROJECT / "configs" / "synthetic.yaml"


def report_errors(command: Callable[[], None]) -> int:
    """Run a command and give its exit status. Errors that a user can mend are told in one line."""
    from mstat.rollcall import LostRankError
    from mstat.run import NotFiniteError
    from shards.records import DataError

    try:
        command()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    except (ValueError, OSError, DataError, NotFiniteError, LostRankError) as error:
        rank = os.environ.get("RANK", "0")
        told = "; ".join([last_line(error), *getattr(error, "__notes__", [])])
        print(f"{'' if rank == '0' else f'[rank {rank}] '}error: {told}", file=sys.stderr)
        if os.environ.get("WORLD_SIZE", "1") != "1":
            # The threads of a broken collective would abort an orderly exit, or wait in it.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 1
    return 0


def last_line(error: BaseException) -> str:
    """The message itself, also of an error that a loader's worker sent with its traceback."""
    text = str(error).strip()
    if "Original Traceback" in text:
        return text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.split())
