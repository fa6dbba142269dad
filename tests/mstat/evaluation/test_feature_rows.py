"""A stopped extraction goes on from the rows on disk, and gives the bits of one that was not stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import shards
from mstat.config import Config, changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.evaluation import extraction, feature_rows
from mstat.evaluation.evaluate import evaluate_run
from mstat.evaluation.feature_rows import FeatureRows, Unfinished, weights_digest
from mstat.evaluation.trial import Trial
from mstat.model import MSTAT
from tests.helpers.distributed import as_launched, run_distributed

FACTS = {"source": "weights"}


@pytest.fixture
def config(tiny_config: Path) -> Config:
    return load_config(tiny_config, ["--eval.mode", "clips", "--data.num_workers", "0"])


@pytest.fixture
def saved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_rows, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(extraction, "TILE", 4)


class StoppedError(Exception):
    """Raised by an embedding to stop an extraction."""


def colours(embedded: list[int], most: int = 10**9) -> extraction.Embed:
    """Return an embedding that counts its calls, and stops after some."""

    def embed(frames_BTHWC: torch.Tensor) -> list[torch.Tensor]:
        if len(embedded) >= most:
            raise StoppedError
        embedded.append(len(frames_BTHWC))
        means_BC = frames_BTHWC.float().mean(dim=(1, 2, 3))
        return [means_BC, means_BC[:, :2].sqrt()]

    return embed


def extracted(config: Config, work: Path | None, embed: extraction.Embed, source: str = "colours") -> torch.Tensor:
    trial = Trial(Engine(config), shards.open(config.data.shards), config)
    trial.work = work
    return torch.cat(trial.extract(embed, (32, 16), source=source), dim=1)


def of_rank(config: Config, work: Path) -> tuple[torch.Tensor, int]:
    embedded: list[int] = []
    with pytest.MonkeyPatch.context() as patch, as_launched():
        patch.setattr(extraction, "TILE", 4)
        patch.setattr(feature_rows, "SAVE_SECONDS", 0.0)
        return extracted(config, work, colours(embedded)), len(embedded)


@pytest.mark.usefixtures("saved_at_once")
def test_a_stopped_extraction_goes_on(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After an error in the middle, on the same or another number of ranks, only missing rows are embedded, the
    features are those of an extraction without a stop, bitwise, and a line says how many were known."""
    calls: list[int] = []
    expected = extracted(config, None, colours(calls))
    with pytest.raises(StoppedError):
        extracted(config, tmp_path, colours([], most=len(calls) // 2))
    assert capsys.readouterr().out == ""
    by_rank = run_distributed(of_rank, 3, config, tmp_path)
    assert torch.equal(torch.cat([features for features, _ in by_rank]), expected)
    assert 0 < sum(count for _, count in by_rank) < len(calls)
    again: list[int] = []
    assert torch.equal(extracted(config, tmp_path, colours(again)), expected)
    assert again == []
    total = f"{len(expected):,}"
    assert f"features: {total} of {total} tracklets are known from an evaluation that was stopped" in (
        capsys.readouterr().out
    )


@pytest.mark.usefixtures("saved_at_once")
def test_other_features_are_not_mixed(config: Config, tmp_path: Path) -> None:
    """Rows of other weights, another number of frames or other tracklets are not read."""
    calls: list[int] = []
    extracted(config, tmp_path, colours(calls))
    for other, source in (
        (config, "other colours"),
        (changed(config, {"eval.num_frames": 2}), "colours"),
        (changed(config, {"eval.occlusion": 0.5}), "colours"),
        (changed(config, {"data.protocol": "queries-removed"}), "colours"),
    ):
        embedded: list[int] = []
        extracted(other, tmp_path, colours(embedded), source)
        assert embedded


def test_damaged_files_count_as_missing(tmp_path: Path) -> None:
    """A cut file, one of another shape or type, a link and a stranger's file are not read; whole ones are."""
    rows = Unfinished(tmp_path, FACTS)
    features = torch.arange(24.0).reshape(8, 3)
    rows.save(0, features[:4], [2, 1])
    rows.save(4, features[4:], [2, 1])
    loaded = rows.load(2, 8)
    assert loaded
    known_S, features_SD, dims = loaded
    assert known_S.all()
    assert torch.equal(features_SD, features[2:])
    assert dims == [2, 1]
    second = rows.folder / "4-8.safetensors"
    content = second.read_bytes()
    for spoilt in (content[:-5], b"", b"{}"):
        second.write_bytes(spoilt)
        loaded = rows.load(0, 8)
        assert loaded
        assert loaded[0].tolist() == [True] * 4 + [False] * 4
    rows.save(4, torch.zeros(3, 3), [2, 1])
    (rows.folder / "4-7.safetensors").rename(second)
    (rows.folder / "8-12.safetensors").symlink_to(rows.folder / "0-4.safetensors")
    (rows.folder / "notes.txt").touch()
    loaded = rows.load(0, 12)
    assert loaded
    assert loaded[0].tolist() == [True] * 4 + [False] * 8
    assert Unfinished(tmp_path, {"source": "other"}).load(0, 8) is None


def test_rows_are_complete_in_whole_tiles(tmp_path: Path) -> None:
    """A tile of which a file has only a part is extracted again as a whole, in the batches of its first extraction."""
    kept = Unfinished(tmp_path, FACTS)
    kept.save(0, torch.ones(6, 2), [2])
    rows = FeatureRows(0, 8, [1] * 8, 4, kept)
    assert rows.known_S.tolist() == [True] * 4 + [False] * 4
    rows.add(torch.arange(4, 8), torch.full((4, 2), 3.0), [2], end=8)
    assert rows.parts([2])[0][:, 0].tolist() == [1.0] * 4 + [3.0] * 4


@pytest.mark.usefixtures("saved_at_once")
def test_a_full_disk_does_not_stop_the_evaluation(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that cannot be kept are a line in the log; the features are whole."""
    (tmp_path / "work").touch()  # no folder can be made here
    features = extracted(config, tmp_path / "work", colours([]))
    assert torch.equal(features, extracted(config, None, colours([])))
    assert "features were not kept for a restart" in caplog.text


@pytest.mark.usefixtures("saved_at_once")
def test_the_rows_go_when_the_evaluation_ends(config: Config, tmp_path: Path) -> None:
    """An evaluation leaves nothing in its folder but what it returns; one that is stopped leaves its rows."""
    config = changed(config, {"eval.mode": "sample", "eval.pictures": False})
    torch.manual_seed(0)
    model, reader = MSTAT(config.model), shards.open(config.data.shards)
    compared: list[int] = []

    class Stopping(Trial):
        def camera_pairs(self, features_SD: torch.Tensor) -> list[dict[str, Any]]:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mstat.evaluation.evaluate.Trial", Stopping)
        with pytest.raises(StoppedError):
            evaluate_run(Engine(config), model, reader, config, tmp_path)
    assert list((tmp_path / feature_rows.FOLDER).glob("*/*.safetensors"))
    whole = model.compared

    def counted(frames: torch.Tensor, feature: Any) -> Sequence[torch.Tensor]:
        compared.append(len(frames))
        return whole(frames, feature=feature)

    model.compared = counted  # type: ignore[method-assign, assignment]
    evaluate_run(Engine(config), model, reader, config, tmp_path)
    assert compared == []
    names = {"evaluation.json", "rankings.json", "queries.json", "config.yaml"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_the_digest_is_that_of_all_weights(config: Config) -> None:
    """Equal weights have one digest; another value, name or buffer changes it."""
    model, other = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    assert weights_digest(model) == weights_digest(other)
    digests = {weights_digest(model)}
    with torch.no_grad():
        other.weight[1] += 1e-7
    digests.add(weights_digest(other))
    other.running_mean = torch.ones(3)
    digests.add(weights_digest(other))
    digests.add(weights_digest(torch.nn.Sequential(model)))
    assert len(digests) == 4
