"""The record of where a run comes from."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest
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


def test_the_commit_of_another_repository_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None for an environment that lies in another project, also where GIT_DIR names that project (as in its hooks)."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    site_packages = tmp_path / "venv" / "site-packages"
    site_packages.mkdir(parents=True)
    monkeypatch.setattr("mstat.provenance.PROJECT", site_packages)
    assert commit() is None
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert commit() is None
    monkeypatch.setattr("mstat.provenance.PROJECT", tmp_path)
    assert commit() is not None


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
