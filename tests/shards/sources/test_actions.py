from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import shards
from shards import images
from shards.__main__ import main
from shards.records import DataError, Role, UsageError
from shards.sources import actions
from shards.synthetic import build_actions
from shards.synthetic.drawing.actions import NUM_FRAMES, PAIRS, draw_clip
from tests.shards.sources.test_mot import LENGTH, colour, make_video
from tests.shards.trees import contents, hostile_order, picture

seeds = itertools.count()


def make(root: Path, *clips: str, frames: int = 3) -> Path:
    for clip in clips:
        (root / clip).mkdir(parents=True)
        for number in range(1, frames + 1):
            (root / clip / f"{number}.jpg").write_bytes(picture(next(seeds), (16, 16)))
    return root


def build(source: Path, out: Path, *options: str) -> int:
    return main(["build", "actions", "--source", str(source), "--out", str(out), "--workers", "1", *options])


def test_classes_splits_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes get numbers in their order, which the facts tell; each held-out part is a protocol of its own; clips are
    taken 2 before 10, however the disk lists them, and their frames, too."""
    hostile_order(monkeypatch)
    root = make(tmp_path / "mine", "train/wave/10", "train/wave/2", "train/jump high/a", "val/wave/x", "test/wave/y")
    for number in (10, 11):
        (root / "train/wave/2" / f"{number}.jpg").write_bytes(picture(next(seeds), (16, 16)))
    for name in ("notes.txt", "loose.jpg", "clip.mp5"):
        (root / "train/wave" / name).write_text("no clip")
    source = actions.read(root)
    assert [protocol.name for protocol in source.protocols] == ["val", "test"]
    train, none, held_out = Role.TRAIN, Role.NONE, Role.GALLERY
    assert [(t.key, t.pid, t.num_frames, t.roles) for t in source.tracklets] == [
        ("train-0001T000001", 1, 3, (train, train)),
        ("train-0002T000001", 2, 5, (train, train)),
        ("train-0002T000002", 2, 3, (train, train)),
        ("val-0002T000001", 2, 3, (held_out, none)),
        ("test-0002T000001", 2, 3, (none, held_out)),
    ]
    assert source.facts == {
        "classes": "1 jump high, 2 wave",
        "frames": "32 of a clip at most, spread evenly",
        "skipped": "files of other types: 1 (train/wave/clip.mp5); "
        "pictures where folders belong: 1 (train/wave/loose.jpg)",
        "documents": "1, not read (train/wave/notes.txt)",
    }
    names = [Path(frame.name).name for frame in source.tracklets[1].frames()]
    assert names == ["1.jpg", "2.jpg", "3.jpg", "10.jpg", "11.jpg"]
    chosen = actions.read(root, num_frames=2).tracklets[1]
    assert [Path(frame.name).name for frame in chosen.frames()] == ["1.jpg", "3.jpg"]


def test_a_clip_may_be_a_video(tmp_path: Path) -> None:
    """Frames are those of the video, in order and colour; of a long one some are kept, from all of it."""
    root = make(tmp_path / "mine", "train/b/1", "test/a/1")
    (root / "train/a").mkdir()
    make_video(root / "train/a/clip.mp4")
    for options, expected in (((), range(LENGTH)), (("--frames", "5"), range(0, LENGTH, LENGTH // 5))):
        out = tmp_path / f"out{len(options)}"
        assert build(root, out, *options) == 0
        reader = shards.open(out)
        reds = reader.frames(0, range(reader.num_frames[0]))[:, :, :60, 0].mean(axis=(1, 2))
        np.testing.assert_allclose(reds, [colour(frame + 1)[0] for frame in expected], atol=6)


def test_videos_that_are_cut_or_none_are_bad_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build names each and fails; with --bad-frames drop it keeps the frames that came, and leaves out the rest."""
    root = make(tmp_path / "mine", "train/a/1", "test/a/1")
    (root / "train/a/2.avi").write_bytes(b"no video" * 99)
    whole = make_video(tmp_path / "whole.avi").read_bytes()
    (root / "train/a/3.avi").write_bytes(whole[: int(0.7 * len(whole))])
    assert build(root, tmp_path / "out", "--frames", "20") == 1
    errors = capsys.readouterr().err
    assert "2.avi: frame 1: train-0001T000002: cannot be decoded" in errors
    assert "3.avi: frame 20: train-0001T000003: the video ends before it" in errors
    assert build(root, tmp_path / "out", "--frames", "20", "--bad-frames", "drop") == 0
    reader = shards.open(tmp_path / "out")
    assert [reader[i].key for i in range(len(reader))] == ["train-0001T000001", "train-0001T000003", "test-0001T000001"]
    assert 5 < reader.num_frames[1] < 15


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    """Splits that are none, a class without clips, a held-out class that is not trained, a clip without pictures."""
    with pytest.raises(DataError, match="folders train; expected train, and val, test or both"):
        actions.read(make(tmp_path / "a", "train/a/1"))
    with pytest.raises(DataError, match="folders gallery, train;"):
        actions.read(make(tmp_path / "b", "train/a/1", "gallery/a/1"))
    with pytest.raises(DataError, match=r"test: jump, run: not in .*train, so that no model can learn it"):
        actions.read(make(tmp_path / "c", "train/a/1", "test/a/1", "test/jump/1", "test/run/1"))
    with pytest.raises(DataError, match="train/a: contains no clip; a clip is a video"):
        actions.read(make(tmp_path / "d", "train/a", "test/a/1"))
    (make(tmp_path / "f", "train/a/1", "test/a/1") / "train/a/2").symlink_to("nowhere")
    with pytest.raises(DataError, match="train/a/2: a broken link"):
        actions.read(tmp_path / "f")
    with pytest.raises(DataError, match="classes 'Wave' and 'wave' differ"):
        actions.read(make(tmp_path / "g", "train/Wave/1", "train/wave/1", "test/wave/1"))
    (tmp_path / "e/train/a/1").mkdir(parents=True)
    with pytest.raises(DataError, match="1: contains no picture"):
        actions.read(make(tmp_path / "e", "test/a/1"))


def test_of_a_pair_only_the_order_differs(tmp_path: Path) -> None:
    """Each drawn clip is there forwards and backwards, byte for byte; so each class of a pair has the same frames, in
    as many clips, and no frame, bag of frames or mirror tells which it is. The same seed draws the same bytes."""
    source = build_actions.read(tmp_path / "tree", 3, num_train=2, num_test=1)
    clips = {
        name: [[frame.read() for frame in t.frames()] for t in source.tracklets if t.pid == number]
        for number, name in enumerate(sorted(itertools.chain(*PAIRS)), start=1)
    }
    for first, second in PAIRS:
        assert len(clips[first]) == 3
        assert clips[first] == [clip[::-1] for clip in clips[second]]
        assert len({frame for clip in clips[first] for frame in clip}) == 3 * NUM_FRAMES
    build_actions.read(tmp_path / "again", 3, num_train=2, num_test=1)
    assert contents(tmp_path / "again") == contents(tmp_path / "tree")
    with pytest.raises(DataError, match="not drawn from seed 4"):
        build_actions.read(tmp_path / "tree", 4)
    with pytest.raises(UsageError, match="must not be negative"):
        build_actions.read(tmp_path / "tree", -1)


def test_a_drawn_action_has_a_direction() -> None:
    """A drawn action moves one way: of a growing thing, more is bright at the end than at the start, in every clip."""
    bright = [(draw_clip(0, ("growing", "shrinking"), n) > 140).all(-1).mean((1, 2)) for n in range(20)]
    assert all(clip[-3:].mean() > 2 * clip[:3].mean() for clip in bright)
    still = draw_clip(0, ("rising", "sinking"), 1)
    assert still.shape == (NUM_FRAMES, 32, 32, 3)
    assert images.encode(still[0], 90)


def test_the_command_draws_them(tmp_path: Path) -> None:
    """`build synthetic-actions` makes shards and leaves the tree beside them, with the seed as a fact."""
    out = tmp_path / "out"
    assert main(["build", "synthetic-actions", "--seed", "5", "--out", str(out), "--workers", "1"]) == 0
    reader = shards.open(out)
    assert reader.facts["seed"] == "5"
    assert reader.facts["classes"].startswith("1 appearing, 2 closing, 3 growing")
    assert (len(reader), set(reader.num_frames)) == (840, {NUM_FRAMES})
    assert (tmp_path / "out-tree" / "test" / "sinking").is_dir()
