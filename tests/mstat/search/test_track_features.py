"""Running features of tracks: those of launch/embed.py for the same frames, in memory that does not grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shards
from mstat.config import Config, changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.embed_set import Form, embed_set
from mstat.metrics import load_features
from mstat.model import MSTAT
from mstat.model.mstat import Embedding
from mstat.search.track_features import TrackFeatures


@pytest.fixture(scope="module")
def config(tiny_config: Path) -> Config:
    return load_config(tiny_config, ["--data.num_workers", "0", "--eval.mode", "clips", "--eval.num_frames", "4"])


def model_of(config: Config) -> MSTAT:
    torch.manual_seed(0)
    return MSTAT(config.model)


@pytest.mark.parametrize("stage_norm", [False, True])
def test_a_finished_track_has_the_feature_of_its_tracklet(stage_norm: bool, config: Config, tmp_path: Path) -> None:
    """Several tracks at once, of all lengths; a feature is there from the first crop on."""
    config = changed(config, {"eval.stage_norm": stage_norm, "run": str(tmp_path / "run")})
    reader, model = shards.open(config.data.shards), model_of(config)
    embed_set(Engine(config), model, reader, config, Form("float32", None), tmp_path / "features")
    expected_ND = load_features(tmp_path / "features").features_ND
    model.embedding = Embedding("feature", stage_norm)
    tracks = TrackFeatures(model, num_frames=4, every=3)
    chosen = np.argsort(reader.num_frames)[[0, 1, 5, 20, -1]].tolist()
    frames = {row: reader.frames(row, range(reader.num_frames[row]), config.model.image_size) for row in chosen}
    for number in range(max(map(len, frames.values()))):
        present = [row for row in chosen if number < len(frames[row])]
        known = tracks.update(present, [frames[row][number] for row in present])
        assert set(known) == set(chosen)
    for row in chosen:
        torch.testing.assert_close(tracks.feature(row), expected_ND[row], atol=1e-5, rtol=1e-5)
    others_ND = expected_ND[chosen]
    assert int(tracks.similarity(chosen[2], others_ND).argmax()) == 2


def test_memory_and_calls_are_bounded(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A track keeps the crops of less than a clip; tracks are embedded together, and forgotten when they are gone."""
    model = model_of(config)
    calls: list[int] = []
    whole = model.compared

    def counted(frames: torch.Tensor, feature: Any) -> tuple[torch.Tensor, ...]:
        calls.append(len(frames))
        return whole(frames, feature)

    monkeypatch.setattr(model, "compared", counted)
    tracks = TrackFeatures(model, num_frames=4, every=4, forget_after=3)
    crop = np.zeros((50, 20, 3), np.uint8)
    for _ in range(11):
        tracks.update([1, 2, 3], [crop] * 3)
    assert calls == [3, 3, 3]  # the first crop, and two complete clips
    assert all(len(track.crops) < 4 for track in tracks._tracks.values())
    for number in range(3):
        assert len(tracks) == 3 - 2 * (number == 3)
        tracks.update([3], [crop])
    assert len(tracks) == 1
    tracks.forget(3)
    assert not tracks.update([], [])
    with pytest.raises(UserError, match="track 3 is not known"):
        tracks.feature(3)


@pytest.mark.parametrize(
    ("ids", "crops", "message"),
    [
        ([1], [], r"1 ids \(1 different\) and 0 crops"),
        ([1, 1], [np.zeros((4, 4, 3), np.uint8)] * 2, r"2 ids \(1 different\)"),
        ([7], [np.zeros((4, 4, 3), np.float32)], r"track 7: a crop must be a uint8 array of shape \(H, W, 3\), not f"),
        ([7], [np.zeros((4, 4), np.uint8)], r"not uint8 \(4, 4\)"),
        ([7], [np.zeros((0, 4, 3), np.uint8)], r"track 7: its crop is empty, \(0, 4, 3\)"),
        ([7], [None], "not NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_crop_is_refused(ids: list[int], crops: list[Any], message: str, config: Config) -> None:
    tracks = TrackFeatures(model_of(config))
    with pytest.raises(UserError, match=message):
        tracks.update(ids, crops)
    assert len(tracks) == 0
    with pytest.raises(UserError, match="at least 1"):
        TrackFeatures(tracks.model, 0)
