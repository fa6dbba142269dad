from __future__ import annotations

import argparse
import pwd
from pathlib import Path

import pytest

import shards
from shards.__main__ import main, parser
from shards.paths import expand, path, place
from shards.records import UsageError
from shards.storage import RemoteFiles, open_files
from tests.shards.trees import mars_tree


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At the start of a path alone, and not in a URL; a user that does not exist is refused, with the way out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [expand(text) for text in ("~", "~/x", "x~", "./~/x", "a/~", "/~", "s3://b/~/x", "~root/x")] == [
        str(tmp_path),
        f"{tmp_path}/x",
        "x~",
        "./~/x",
        "a/~",
        "/~",
        "s3://b/~/x",
        f"{pwd.getpwnam('root').pw_dir}/x",
    ]
    assert path("~/x") == tmp_path / "x"
    assert (place("~/x"), place("https://host/~/x")) == (f"{tmp_path}/x", "https://host/~/x")
    with pytest.raises(
        UsageError, match=r"~nobody-here is no user's home folder; for a file of that name write ./~nobody"
    ):
        expand("~nobody-here/x")
    with pytest.raises(argparse.ArgumentTypeError, match="no user's home folder"):
        path("~nobody-here")


def test_every_path_of_every_command_takes_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No option of a path is left out: all that take one are of the same type."""
    monkeypatch.setenv("HOME", str(tmp_path))
    forms = {"DIR", "PATH", "FILE"}
    commands = [parser("python -m shards")]
    num_options = 0
    while commands:
        for action in commands.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                commands += action.choices.values()
            elif action.metavar in forms:
                num_options += 1
                assert action.type in (path, place), action
    assert num_options > 20


def test_a_set_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built, shown, verified and opened under its `~`; shards and index lie in one folder, and none is called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    mars_tree(tmp_path / "tree", size=(16, 8))
    assert main(["build", "mars", "--partial", "--source=~/tree", "--out=~/sets/out", "--workers", "1"]) == 0
    assert (tmp_path / "sets/out/shard-000000.tar").is_file()
    assert (tmp_path / "sets/out/index").is_dir()
    assert main(["info", "~/sets/out"]) == 0
    assert main(["verify", "~/sets/out"]) == 0
    assert main(["show", "~/sets/out", "0001C1T0001", "--out", "~/sheet.png"]) == 0
    assert len(shards.open("~/sets/out")) == 10
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["sets", "sheet.png", "tree"]
    with pytest.raises(SystemExit):
        main(["build", "mars", "--source=~/tree", "--out=~nobody-here/out"])
    assert "~nobody-here is no user's home folder" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_cache_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    """MSTAT_CACHE, and `cache` of shards.open."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cache = "~/cache" if how == "argument" else None
    if how == "environment":
        monkeypatch.setenv("MSTAT_CACHE", "~/cache")
    files = open_files("memory://nowhere", cache, None)
    assert isinstance(files, RemoteFiles)
    assert files.cache.folder == tmp_path / "cache"
