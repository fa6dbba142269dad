"""RUN/run.log: events and errors, in the folder of the run alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.common import report_errors
from mstat.errors import UserError
from mstat.runs import log


@pytest.fixture(autouse=True)
def no_log_afterwards(tmp_path: Path) -> Iterator[None]:
    """Other tests of this process do not log to this folder."""
    yield
    for handler in [handler for handler in log.logger.handlers if isinstance(handler, logging.FileHandler)]:
        log.logger.removeHandler(handler)
        handler.close()


def test_errors_keep_their_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal shows one line of what a user can mend, the log where it was raised; a fault of ours is in both."""

    def refuse() -> None:
        raise UserError("data.shards: nowhere")

    def fail() -> None:
        [][0]

    log.write_to(tmp_path)
    assert report_errors(refuse) == 1
    assert capsys.readouterr().err == "error: data.shards: nowhere\n"
    assert report_errors(fail) == 1
    assert "IndexError" in capsys.readouterr().err
    text = (tmp_path / "run.log").read_text()
    assert "rank 0 ERROR data.shards: nowhere\nTraceback" in text
    assert "in refuse" in text
    assert "in fail" in text


def test_without_a_run_there_is_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors before a run are printed once."""

    def refuse() -> None:
        raise UserError("no")

    assert report_errors(refuse) == 1
    assert capsys.readouterr().err == "error: no\n"


def test_only_the_main_process_writes_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others write errors, with their rank."""
    monkeypatch.setenv("RANK", "3")
    log.write_to(tmp_path)
    log.logger.info("step 1")
    assert not (tmp_path / "run.log").exists()
    log.logger.error("lost")
    assert "rank 3 ERROR lost" in (tmp_path / "run.log").read_text()


def test_the_next_run_has_its_own_log(tmp_path: Path) -> None:
    """A set of splits trains one run after another."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        log.write_to(tmp_path / name)
        log.logger.info("run %s", name)
    assert "run a" in (tmp_path / "a" / "run.log").read_text()
    assert "run a" not in (tmp_path / "b" / "run.log").read_text()


def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path) -> None:
    """Somebody else may have made the folder; a folder that is not there costs nothing."""
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "run.log").symlink_to(tmp_path / "target")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "run.log")
    for name in ("link", "pipe", "none"):
        log.write_to(tmp_path / name)
        log.logger.error("said")
    assert not (tmp_path / "target").exists()
