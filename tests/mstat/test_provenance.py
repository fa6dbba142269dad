"""The record of where a run comes from."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import torch

from mstat.provenance import PROJECT, commit, hardware, source_digest, versions


def test_versions_are_those_that_run() -> None:
    result = versions()
    assert result["python"] == platform.python_version()
    assert result["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert "not installed" not in result.values()


def test_the_commit_is_that_of_the_tree() -> None:
    """With `-dirty` where files differ from it; None where there is no git."""
    done = subprocess.run(["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True)
    result = commit()
    if done.returncode:
        assert result is None
    else:
        assert result is not None
        assert re.fullmatch(rf"{done.stdout.strip()}(-dirty)?", result)


def test_hardware_is_told() -> None:
    assert re.fullmatch(r"\d+ (CPU cores, |x ).+", hardware())


def test_the_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    """Of the Python files that a run may execute, and of no others."""
    for folder in ("shards", "mstat", "launch", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mstat" / "a.py").write_text("x = 1\n")
    first = source_digest(tmp_path)
    (tmp_path / "tests" / "a.py").write_text("x = 1\n")
    (tmp_path / "mstat" / "notes.txt").write_text("no code")
    assert source_digest(tmp_path) == first
    (tmp_path / "mstat" / "a.py").rename(tmp_path / "mstat" / "b.py")
    renamed = source_digest(tmp_path)
    (tmp_path / "mstat" / "b.py").write_text("x = 2\n")
    assert len({first, renamed, source_digest(tmp_path)}) == 3
