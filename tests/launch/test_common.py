"""Errors that are printed as one line, and errors that keep their traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from launch.common import report_errors
from mstat.distributed.lost_rank import LostRankError
from mstat.errors import UserError
from mstat.runs.folder import NotFiniteError
from shards.records import DataError, UsageError


def _fail(error: Exception) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("MSTAT_DEBUG", raising=False)


@pytest.mark.parametrize(
    "error",
    [
        UserError("data.shards: the way out"),
        DataError("a.tar: the way out"),
        UsageError("--size: the way out"),
        NotFiniteError("step 3: the way out"),
        LostRankError("rank 1: the way out"),
        OSError(errno.ENOSPC, "the way out"),
        OSError(errno.EMFILE, "the way out"),
        FileNotFoundError(errno.ENOENT, "the way out", "a.yaml"),
        PermissionError(errno.EACCES, "the way out", "runs"),
        TimeoutError("the way out"),
        ConnectionResetError(errno.ECONNRESET, "the way out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_user_can_mend_is_one_line(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    """One line, no traceback, exit status 1."""
    assert report_errors(_fail(error)) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "the way out" in lines[0]


def _strict_zip() -> None:
    list(zip([1], [], strict=True))


def _broadcast() -> None:
    np.zeros(3) + np.zeros(4)


def _unpack() -> None:
    _, _ = Path("a/b/c").parts


def _closed_file() -> None:
    raise OSError(errno.EBADF, "Bad file descriptor")


def _missing_key() -> None:
    dict[str, int]()["a"]


@pytest.mark.parametrize("fault", [_strict_zip, _broadcast, _unpack, _closed_file, _missing_key])
def test_a_fault_of_ours_keeps_its_traceback(fault: Callable[[], None], capfd: pytest.CaptureFixture[str]) -> None:
    """A ValueError or OSError that no one raised for the user names the line of code that failed."""
    assert report_errors(fault) == 1
    output = capfd.readouterr().err
    assert output.startswith("Traceback (most recent call last):")
    assert f"in {fault.__name__}" in output


def test_debugging_shows_the_traceback_of_both(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MSTAT_DEBUG=1 prints where a mendable error was raised, and the one line after it."""
    monkeypatch.setenv("MSTAT_DEBUG", "1")
    assert report_errors(_fail(UserError("the way out"))) == 1
    output = capfd.readouterr().err
    assert "Traceback" in output
    assert output.splitlines()[-1] == "error: the way out"


def test_no_message_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in an error are printed as escapes; also in the traceback of a fault of ours."""

    def refuse() -> None:
        raise UserError("key a\x1b[2J\u202eb")

    def fail() -> None:
        raise KeyError("\x1b[2J")

    for command in (refuse, fail):
        assert report_errors(command) == 1
        error = capsys.readouterr().err
        assert "\\x1b[2J" in error
        assert all(line.isprintable() for line in error.splitlines())
