"""Relative paths of a run's settings, seen from another folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launch.common import config_of_run
from mstat.config import Config, changed
from mstat.config.cli import save_config
from mstat.report.run_reader import Folder
from mstat.runs.relocate import find_shards
from shards.read import Reader
from tests.shards.trees import build_mars, mars_tree


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that began in `project`, with relative settings; the current folder is another one."""
    out = build_mars(mars_tree(tmp_path / "tree", size=(16, 8)), tmp_path / "project/data/set")
    run = tmp_path / "far" / "run"
    run.mkdir(parents=True)
    config = changed(Config(run="../far/run"), {"data.shards": "data/set", "model.init": "start.pth"})
    (tmp_path / "project/start.pth").touch()
    save_config(config, run / "config.yaml")
    environment = {"folder": str(tmp_path / "project"), "shards_checksum": Reader(out).checksum}
    (run / "environment.json").write_text(json.dumps(environment))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return run


def test_shards_are_taken_from_where_the_run_began(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what is done with a run, and for its report; standard error says which was taken. So is the file it started
    from."""
    config = config_of_run(run, [])
    assert (config.data.shards, config.model.init) == (f"{tmp_path}/project/data/set", f"{tmp_path}/project/start.pth")
    assert capsys.readouterr().err == (
        f"data.shards: data/set is not in the current folder; using {tmp_path}/project/data/set\n"
    )
    assert len(Folder(run).reader) == 10
    monkeypatch.chdir(tmp_path / "project")
    config = config_of_run(run, [])
    assert (config.data.shards, config.model.init) == ("data/set", "start.pth")
    assert capsys.readouterr().err == ""


def test_a_flag_counts_and_what_is_nowhere_stays(run: Path, tmp_path: Path) -> None:
    """An absolute path or a URL is nobody's to look for; where nothing is found, the setting is as it was."""
    for place in ("s3://bucket/data/set", str(tmp_path / "nowhere"), "not/there"):
        assert config_of_run(run, ["--data.shards", place]).data.shards == place
    shutil.rmtree(tmp_path / "project")
    assert config_of_run(run, []).data.shards == "data/set"
    assert "does not exist in the current folder or where the run started" in str(Folder(run).reader)


@pytest.mark.parametrize("environment", ["without the folder", "moved", "missing"])
def test_runs_of_older_versions(run: Path, tmp_path: Path, environment: str) -> None:
    """They do not say where they began: the folders above the run folder are tried, and a set is taken there only if
    its checksum is the recorded one. The same where the whole project has been moved."""
    content = json.loads((run / "environment.json").read_text())
    checksum = content["shards_checksum"]
    if environment == "missing":
        (run / "environment.json").unlink()
    else:
        content |= {"folder": str(tmp_path / "gone")} if environment == "moved" else {}
        if environment == "without the folder":
            del content["folder"]
        (run / "environment.json").write_text(json.dumps(content))
    assert find_shards(run, "data/set") == "data/set"
    shutil.copytree(tmp_path / "project/data", tmp_path / "data")
    assert find_shards(run, "data/set") == f"{tmp_path}/data/set"
    if environment != "missing":
        text = (tmp_path / "data/set/dataset.json").read_text()
        (tmp_path / "data/set/dataset.json").write_text(text.replace(checksum, 64 * "0"))
        assert find_shards(run, "data/set") == "data/set"


def test_the_folder_of_all_splits(run: Path, tmp_path: Path) -> None:
    """It has no environment.json of its own: that of a split's run says where they began."""
    (run / "split-0").mkdir()
    (run / "environment.json").rename(run / "split-0" / "environment.json")
    assert find_shards(run, "data/set") == f"{tmp_path}/project/data/set"
