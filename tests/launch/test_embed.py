"""`launch/embed.py` as a user starts it, on one process and on two."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.embed import main
from mstat.metrics import load_features
from tests.conftest import run


def test_one_process_and_two_write_the_same_bytes(reference: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """All files; the table of scores is printed."""
    flags = ["--run", reference, "--shards", tiny_shards, "--dtype", "float16", "--dims", 8, "--eval.mode", "clips"]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, launched in zip(folders, ({}, {"accelerate": "ddp", "processes": 2}), strict=True):
        status, output = run("embed", [*flags, "--out", folder], **{"accelerate": None, **launched})
        assert status == 0, output
        assert "principal components, float16" in output
        assert f"tracklets: {folder}" in output
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    assert load_features(folders[0]).info["eval"]["mode"] == "clips"


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("run", "no config.yaml in it"),
        ("out", "exists, and holds more than features"),
        ("shards", "no dataset.json"),
    ],
)
def test_bad_input_is_one_line(
    spoilt: str,
    message: str,
    reference: Path,
    tiny_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder that is no run, an --out with other files and a path without a data set are named."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "notes.txt").touch()
    given = {"run": reference, "shards": tiny_shards, "out": tmp_path / "features", spoilt: folder}
    assert main([str(word) for name, value in given.items() for word in (f"--{name}", value)]) == 1
    assert f"error: {folder}: {message}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
