"""Configs of an installation, by the names that they have in a clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstat.config.cli import load_config, parse
from mstat.config.packaged import CONFIGS, find_config
from tests.conftest import PROJECT


def test_the_link_leads_to_the_configs_of_the_clone() -> None:
    """Messages and `mstat configs` show the files that a user may change."""
    assert CONFIGS == PROJECT / "configs"
    assert (CONFIGS / "accelerate" / "ddp.yaml").is_file()


@pytest.mark.parametrize("name", ["mars.yaml", "configs/mars.yaml", "./configs/mars.yaml"])
def test_a_config_that_is_not_in_the_current_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the installed one, and a line says so, on one rank; a file of that name comes first."""
    monkeypatch.chdir(tmp_path)
    assert parse(["--config", name]) == load_config(CONFIGS / "mars.yaml")
    shown = name.removeprefix("./")
    assert capsys.readouterr().err == f"{shown} is not in the current folder; using {CONFIGS / 'mars.yaml'}\n"
    monkeypatch.setenv("RANK", "1")
    assert find_config(name) == CONFIGS / "mars.yaml"
    monkeypatch.delenv("RANK")
    (tmp_path / "configs").mkdir()
    (tmp_path / name).write_text("seed: 7\n")
    assert parse(["--config", name]).seed == 7
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["other/mars.yaml", "/configs/mars.yaml", "../configs/mars.yaml", "marss.yaml"])
def test_other_missing_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other folder is searched, and no name is guessed."""
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == Path(name)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        load_config(Path(name))
