"""The summary that a build prints last, and `info` as well."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from shards.__main__ import main
from shards.summary import show_warnings
from tests.shards.trees import mars_tree, picture

MOT = ["build", "mot", "--workers", "1", "--crop-size", "32x16"]


def pictures(folder: Path, numbers: range = range(1, 7)) -> Path:
    """A folder of 96 x 64 pixels each."""
    folder.mkdir()
    for number in numbers:
        (folder / f"{number:06d}.jpg").write_bytes(picture(number, (64, 96)))
    return folder


def tracks(path: Path, pids: tuple[int, ...], extra: str = "") -> Path:
    rows = [f"{frame},{pid},{10 * pid},5,20,50,1,1,1\n" for frame in range(1, 7) for pid in pids]
    path.write_text("".join(rows) + extra)
    return path


def test_a_build_says_last_what_it_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build prints the facts and the valid queries of each split, and last, a line each, what was dropped by reason,
    who vanished and what cannot be scored; `info` shows the same lines last."""
    camera = pictures(tmp_path / "camera")
    extra = (
        "1,8,9,9,20,50,0,1,1\n2,8,9,9,20,50,1,7,1\n3,8,9,9,20,50,1,1,0\n4,5,120,9,20,50,1,1,1\n5,6,-18,9,20,50,1,1,1\n"
    )
    file = tracks(tmp_path / "t.txt", (1, 2, 3, 4), extra)
    out = tmp_path / "out"
    command = [*MOT, "--video", str(camera), "--tracks", str(file), "--out", str(out)]
    assert main(command) == 1
    assert "2 of 26 boxes lie" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--max-dropped", "40%"]) == 0
    built = capsys.readouterr().out.splitlines()
    assert built[0] == f"{out}: 4 tracklets, 24 frames"
    assert built[1:4] == [
        "test identities: 2, 4",
        "boxes: 24 of 29 rows",
        "cross-camera: valid queries: 0 of 2",
    ]
    assert built[4:] == [
        "warning dropped: 5 of 29 boxes: 1 of confidence 0, 1 of class 7, 1 visible by less than 0.01, 1 outside the "
        "picture, 1 thinner than 4 pixels in it; ids of such rows alone: 1",
        f"warning vanished: identities of which no box is left: {file} (5, 6)",
        "warning cross-camera: none of 2 queries has a match on another camera; nothing can be scored",
    ]
    assert main(["info", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == built[4:]


def test_bad_frames_drop_reaches_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--bad-frames drop leaves out malformed rows and boxes of missing frames, and says so; without it they end the
    build with 1 and nothing in place."""
    camera = pictures(tmp_path / "camera", range(1, 6))
    first, second = tracks(tmp_path / "1.txt", (1, 2), "1,1,5,5,x,9,1,1,1\n"), tracks(tmp_path / "2.txt", (1, 2))
    pairs = [text for file in (first, second) for text in ("--video", str(camera), "--tracks", str(file))]
    out = tmp_path / "out"
    assert main([*MOT, *pairs, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "1.txt:13: could not convert 'x'" in error
    assert "2.txt:12: frame 6" in error
    assert "5 bad rows; correct them, or leave them out with --bad-frames drop" in error
    assert not list(tmp_path.glob("out*"))
    assert main([*MOT, *pairs, "--bad-frames", "drop", "--out", str(out)]) == 0
    built = capsys.readouterr().out.splitlines()
    assert "cross-camera: valid queries: 2 of 2" in built
    assert built[-1] == "warning dropped: 5 of 25 boxes: 1 bad rows, 4 of frames that are not there"


def test_each_source_says_its_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any source's build prints the valid queries of each split, and warns of identities in training and in test."""
    tree = mars_tree(tmp_path / "mars", val=True)
    out = tmp_path / "out"
    assert main(["build", "mars", "--partial", "--workers", "1", "--source", str(tree), "--out", str(out)]) == 0
    built = capsys.readouterr().out
    assert "official: valid queries: 2 of 3\n" in built
    assert "warning partial: " in built

    for place in ("train/7/1/t", "test/7/1/t", "test/7/2/t"):
        (tmp_path / "tree" / place).mkdir(parents=True)
        (tmp_path / "tree" / place / "1.jpg").write_bytes(picture(len(place)))
    out = tmp_path / "leak"
    assert main(["build", "folder", "--source", str(tmp_path / "tree"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith("warning test: 1 identities are in training and in test: 7\n")


def test_warnings_are_seen(tmp_path: Path) -> None:
    """On a terminal a warning starts with dark letters on yellow, which any background shows; names are no mark-up."""
    stream = io.StringIO()
    show_warnings(["dropped: 1 of [red]"], Console(file=stream, force_terminal=True, color_system="standard", width=20))
    assert stream.getvalue() == "\x1b[30;43mwarning\x1b[0m \x1b[1mdropped: 1 of [red]\x1b[0m\n"
