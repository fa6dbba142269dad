"""RUN/run.log: events and errors of a run, each with its time and rank.

Modules log to the logger `mstat`. Errors keep their traceback here, also those that the terminal shows in one line.
"""

from __future__ import annotations

import contextlib
import logging
import os
from io import TextIOWrapper
from pathlib import Path

from shards.guarded import open_regular
from shards.records import DataError

FILE = "run.log"
logger = logging.getLogger("mstat")


class _File(logging.FileHandler):
    """Log file that follows no link and waits for no pipe. Write errors, as on a full disk, do not stop the run."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = open_regular(self.baseFilename, flags)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, DataError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error: the run itself reports a full disk."""


def write_to(run: Path) -> None:
    """Append records to RUN/run.log from now on, and close the log of another run.

    The main process writes events and errors, the others only errors. The first record creates the file.
    """
    for handler in [handler for handler in logger.handlers if isinstance(handler, _File)]:
        logger.removeHandler(handler)
        handler.close()
    rank = os.environ.get("RANK", "0")
    handler = _File(run / FILE, delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setLevel(logging.INFO if rank == "0" else logging.ERROR)
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s"))
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
