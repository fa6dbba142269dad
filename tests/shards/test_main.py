from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shards
from shards import verify as verifying
from shards.__main__ import main
from shards.sources import mars
from shards.synthetic import persons
from tests.shards.trees import contents, mars_tree, picture

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return mars_tree(tmp_path / "tree", val=True)


def build(tree: Path, out: Path, *options: str) -> int:
    return main(
        ["build", "mars", "--partial", "--workers", "1", "--source", str(tree), "--out", str(out), *map(str, options)]
    )


def test_build_verify_info(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good build, verify and info end with 0; info counts identities, tracklets, frames and queries by role."""
    out = tmp_path / "out"
    assert build(tree, out) == 0
    assert main(["verify", str(out), "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["tracklets"], content["frames"], content["identities"], content["cameras"]) == (12, 43, 5, 5)
    assert content["checksum"] == shards.open(out).checksum
    official, removed, validation = (protocol["splits"]["0"] for protocol in content["protocols"])
    assert official["train"] == {
        "identities": 2,
        "tracklets": 4,
        "frames": 14,
        "cameras": [1, 2, 6],
        "lengths": {"min": 2, "mean": 3.5, "max": 5, "histogram": [0, 2, 2, *[0] * 8]},
    }
    assert official["per_camera"]["1"]["train"] | {"lengths": None} == {
        "identities": 2,
        "tracklets": 2,
        "frames": 7,
        "lengths": None,
    }
    assert content["lengths"] == {"from": [2**n for n in range(11)], "tracklets": [0, 7, 5, *[0] * 8]}
    assert [official[role]["tracklets"] for role in ("query", "gallery", "distractors", "junk")] == [3, 5, 1, 1]
    assert (official["valid_queries"], removed["valid_queries"], validation["valid_queries"]) == (2, 1, 1)
    assert main(["info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "valid queries: 2 of 3" in shown
    assert "official" in shown


def test_info_shows_names_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that look like mark-up of a terminal are printed as they are."""
    for place in ("train/[red]/[x]/t", "test/7/[x]/t"):
        (tmp_path / "tree" / place).mkdir(parents=True)
        (tmp_path / "tree" / place / "1.jpg").write_bytes(picture(0))
    out = tmp_path / "out"
    assert main(["build", "folder", "--source", str(tmp_path / "tree"), "--name", "[/b] a", "--out", str(out)]) == 0
    assert main(["info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "[/b] a: 2 tracklets" in shown
    assert "identities: 1 7, 2 [red]" in shown


def test_show_draws_every_frame(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`show` puts each frame of a tracklet where its number stands, in KEY.png of the current folder or --out; a key
    that there is none of ends with 2 and shows what a key looks like."""
    out = tmp_path / "out"
    assert build(tree, out) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(out), "0001C2T0002"]) == 0
    assert capsys.readouterr().out.endswith("0001C2T0002.png\n")
    reader = shards.open(out)
    frames = reader.frames(1, range(5), size=(128, 64))
    picture = np.asarray(Image.open("0001C2T0002.png"))
    corners = [
        (top, left) for top, left in zip(*np.nonzero((picture[:-127, :-63] == frames[0, 0, 0]).all(-1)), strict=True)
    ]
    top, left = next((t, x) for t, x in corners if (picture[t : t + 128, x : x + 64] == frames[0]).all())
    for number in range(5):
        x = left + number * (64 + 8)
        np.testing.assert_array_equal(picture[top : top + 128, x : x + 64], frames[number])
    assert main(["show", str(out), "0004C1T0001", "--out", "sheet.png"]) == 0
    assert Path("sheet.png").is_file()
    assert main(["show", str(out), "9"]) == 2
    assert "no tracklet 9; keys look like 0001C1T0001" in capsys.readouterr().err


def test_bad_data_ends_with_1(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad frames, damaged shards and folders that are no shards end with 1 and name what is wrong."""
    out = tmp_path / "out"
    bad = tree / "bbox_train/0001/0001C1T0001F002.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(b"no picture")
    assert build(tree, out) == 1
    assert f"{bad}: 0001C1T0001: neither JPEG nor PNG" in capsys.readouterr().err
    bad.write_bytes(whole)
    assert build(tree, out) == 0
    tar = out / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    assert main(["verify", str(out), "--workers", "1"]) == 1
    assert f"{tar}: " in capsys.readouterr().err
    assert main(["info", str(out)]) == 1
    assert main(["info", str(tree)]) == 1
    assert "build it again" in capsys.readouterr().err


def test_an_array_of_tasks_makes_the_same_set(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--array-task I/N for each I, then --join: the set of one build, with bad frames left out in both."""
    (tree / "bbox_train/0001/0001C1T0001F002.jpg").write_bytes(b"")
    for task in ("1/2", "2/2"):
        assert build(tree, tmp_path / "out", "--bad-frames", "drop", "--array-task", task) == 0
        assert "after all parts, --join them" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert build(tree, tmp_path / "out", "--bad-frames", "drop", "--join") == 0
    assert build(tree, tmp_path / "one", "--bad-frames", "drop") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_bad_usage_ends_with_2(tree: Path, tmp_path: Path) -> None:
    """Missing or unfit options, unknown sources and an existing folder end with 2."""
    out = tmp_path / "out"
    assert build(tree, out, "--quality", "50") == 2
    assert build(tree, out, "--array-task", "1/2", "--join") == 2
    with pytest.raises(SystemExit, match="2"):
        build(tree, out, "--array-task", "3/2")
    assert build(tree, out, "--size", "32x16", "--quality", "101") == 2
    assert not list(tmp_path.glob("out*"))
    assert build(tree, out) == 0
    assert build(tree, out) == 2
    for wrong in (
        ["build", "mars", "--out", "x"],
        ["build", "moon"],
        [],
        ["build", "mars", "--source", "x", "--out", "y", "--workers", "0"],
        ["build", "mars", "--source", "x", "--out", "y", "--size", "256"],
        ["build", "mars", "--source", "x", "--out", "y", "--size", "99999x99999"],
    ):
        with pytest.raises(SystemExit) as error:
            main(wrong)
        assert error.value.code == 2


def test_unfit_options_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that only the source can judge end with 2 as well, and leave no folder."""
    out = ["--out", str(tmp_path / "out")]
    two = ["--video", "a.avi", "--tracks", "a.txt"] * 2
    assert main(["build", "mot", "--halve-tracks", *two, *out]) == 2
    assert "--halve-tracks" in capsys.readouterr().err
    assert main(["build", "synthetic", "--seed", "-1", *out]) == 2
    assert not list(tmp_path.iterdir())


def test_errors_of_our_own_are_not_bad_usage(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ValueError from within is shown with its traceback; only a build is said to go on."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.delenv("MSTAT_DEBUG", raising=False)
    monkeypatch.setattr(verifying, "verify", fail)
    error: Exception = ValueError("ours")
    with pytest.raises(ValueError, match="ours"):
        main(["verify", str(tmp_path)])
    error = OSError("the disk")
    assert main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: the disk\n"
    monkeypatch.setattr(mars, "load_mat", fail)
    assert build(tree, tmp_path / "out") == 1
    message = capsys.readouterr().err  # a write to a full disk names no file
    assert message.startswith(f"error: {tmp_path / 'out'}: the disk")
    assert "re-run the same command to resume" in message
    monkeypatch.setenv("MSTAT_DEBUG", "1")
    assert main(["verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "error: the disk"


def test_size_and_shard_size(tree: Path, tmp_path: Path) -> None:
    """--size re-encodes every frame, height first; --shard-size is in megabytes."""
    for n in range(1, 3):
        (tree / f"bbox_train/0001/0001C1T0001F00{n}.jpg").write_bytes(picture(n, (2000, 1000), 100))
    assert build(tree, tmp_path / "large", "--shard-size", "1") == 0
    assert build(tree, tmp_path / "small", "--size", "32x16", "--quality", "80") == 0
    assert shards.open(tmp_path / "small").frames(0, [0, 1, 2]).shape == (3, 32, 16, 3)
    assert len(list((tmp_path / "large").glob("*.tar"))) > len(list((tmp_path / "small").glob("*.tar"))) == 1


def test_the_synthetic_tree_is_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`build synthetic` draws its tree beside the shards, takes one that is there, draws one of an older generator
    anew, and refuses one of another seed, or one that it did not draw."""
    write_all = persons.write_synthetic
    monkeypatch.setattr(
        persons,
        "write_synthetic",
        lambda out, seed, *, workers: write_all(out, seed, workers=1, num_train=2, num_val=2, num_test=2),
    )
    first, second, third = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    command = ["build", "synthetic", "--workers", "1"]
    assert main([*command, "--seed", "3", "--out", str(first)]) == 0
    reader = shards.open(first)
    assert reader.name == "synthetic"
    assert reader.facts == {"seed": "3"}
    assert [p.name for p in reader.protocols] == ["official", "queries-removed", "validation"]
    tree = tmp_path / "a-tree"
    seed_file = tree / persons.SEED_FILE
    made = seed_file.stat().st_mtime_ns
    assert main([*command, "--seed", "3", "--tree", str(tree), "--out", str(second)]) == 0
    assert shards.open(second).checksum == reader.checksum
    assert seed_file.stat().st_mtime_ns == made
    assert main([*command, "--seed", "4", "--tree", str(tree), "--out", str(third)]) == 1
    assert "not drawn from seed 4" in capsys.readouterr().err

    seed_file.write_text(persons.provenance(3, persons.GENERATOR - 1))
    frame = next(tree.glob("bbox_train/*/*.jpg"))
    frame.write_bytes(picture(0))
    assert main([*command, "--seed", "3", "--tree", str(tree), "--out", str(third)]) == 0
    assert shards.open(third).checksum == reader.checksum
    seed_file.unlink()
    assert main([*command, "--seed", "3", "--tree", str(tree), "--out", str(tmp_path / "d")]) == 1
    assert frame.is_file()


def test_help_needs_no_decoder() -> None:
    """`--help` is quick: it loads no torch, scipy, av or datasets."""
    program = (
        "import sys\nfrom shards.__main__ import main\n"
        "try:\n    main(['build', 'mot', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'scipy', 'av', 'datasets'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True)
