"""Features of a whole set: the same files on any number of ranks and after a stop, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import shards
from mstat.config import Config, changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation import extraction, feature_rows, feature_writer
from mstat.evaluation.embed_set import Form, check, embed_set
from mstat.evaluation.trial import Trial
from mstat.metrics import cmc_map, load_features
from mstat.model import MSTAT, join_stages
from shards.__main__ import main
from tests.helpers.distributed import as_launched, run_distributed
from tests.helpers.file_server import Server
from tests.shards.trees import picture

FORM = Form("float16", 8)


class KilledError(Exception):
    """Stands for the end of the process after some calls of the model."""


@pytest.fixture
def config(tiny_config: Path, tmp_path: Path) -> Config:
    flags = ["--data.num_workers", "0", "--run", str(tmp_path / "run")]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(tiny_config.read_text())
    return load_config(tiny_config, flags)


def embedded(config: Config, out: Path, form: Form = FORM, most: int = 10**9) -> int:
    """Embed with small tiles and parts; return the number of calls of the model."""
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch, as_launched():
        patch.setattr(extraction, "TILE", 8)
        patch.setattr("mstat.evaluation.pca.TILE", 8)
        patch.setattr(feature_writer, "PART_ROWS", 20)
        patch.setattr(feature_rows, "SAVE_SECONDS", 0.0)
        torch.manual_seed(0)
        model = MSTAT(config.model)
        whole = model.compared

        def counted(frames: Tensor, feature: Any) -> Sequence[Tensor]:
            if len(calls) >= most:
                raise KilledError
            if frames.any():  # a rank with fewer batches embeds zeros
                calls.append(len(frames))
            return whole(frames, feature=feature)

        model.compared = counted  # type: ignore[method-assign, assignment]
        reader = shards.open(config.data.shards)
        embed_set(Engine(config), model, reader, config, form, out)
    return len(calls)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_ranks_and_a_stop_change_no_byte(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process writes all tracklets in parts of a fixed size. One that is killed and goes on as three ranks writes
    the same bytes, and embeds only what is missing; nothing else stays on disk."""
    total = embedded(config, tmp_path / "one")
    reader = shards.open(config.data.shards)
    (tmp_path / "one.old").mkdir()  # somebody's copy
    assert embedded(config, tmp_path / "one") == total
    (tmp_path / "one.old").rmdir()
    saved = load_features(tmp_path / "one")
    assert saved.table["key"].to_pylist() == [reader[i].key for i in range(len(reader))]
    assert saved.table["pid"].to_pylist() == reader.pids.tolist()
    assert saved.features_ND.shape == (len(reader), 8)
    with pytest.raises(KilledError):
        embedded(config, tmp_path / "three", most=total // 2)
    assert not (tmp_path / "three").exists()
    assert 0 < sum(run_distributed(embedded, 3, config, tmp_path / "three")) < total
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert "features-20-40.safetensors" in files(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "run", "three"]
    assert "no scores" not in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_behind_a_url_is_streamed(workers: int, config: Config, tmp_path: Path) -> None:
    """Features are those of the local set, and each byte of the tars is requested once, by any number of workers."""
    config = changed(config, {"eval.mode": "clips", "data.num_workers": workers})
    embedded(config, tmp_path / "local")
    server = Server(Path(config.data.shards))
    embedded(changed(config, {"data.shards": server.url}), tmp_path / "streamed")
    server.shutdown()
    server.server_close()
    local, streamed = files(tmp_path / "local"), files(tmp_path / "streamed")
    assert streamed == local
    assert server.bytes_once() > 0.5 * sum(path.stat().st_size for path in Path(config.data.shards).glob("*.tar"))


def test_the_features_are_those_of_the_evaluation(config: Config, tmp_path: Path) -> None:
    """A tracklet has the feature that an evaluation compares, up to rounding, and cmc_map gives its score; half
    precision rounds it, and the projection of the full features gives those on disk."""
    embedded(config, tmp_path / "full", Form())
    full = load_features(tmp_path / "full")
    torch.manual_seed(0)
    model = MSTAT(config.model)
    trial = Trial(Engine(config), shards.open(config.data.shards), config)
    parts = trial.extract(lambda frames: model.compared(frames, feature="feature"), config.model.image_size)
    compared_SD = join_stages(parts, config.eval.stage_norm)
    torch.testing.assert_close(full.features_ND[torch.from_numpy(trial.tracklets)], compared_SD, rtol=0, atol=1e-5)
    expected = trial.rank(compared_SD)[0].summary()
    scores = cmc_map(**full.arguments())
    assert scores["num_valid_query"] == expected["num_valid_query"]
    assert scores["mAP"] == pytest.approx(expected["mAP"], abs=1e-3)
    embedded(config, tmp_path / "half", Form("float16"))
    half = load_features(tmp_path / "half")
    assert torch.equal(half.features_ND, full.features_ND.half())
    arguments = half.arguments()
    in_fp32 = {f"{side}_features": arguments[f"{side}_features"].float() for side in ("query", "gallery")}
    assert cmc_map(**arguments) == cmc_map(**{**arguments, **in_fp32})
    embedded(config, tmp_path / "pca", Form(dims=8))
    projected = load_features(tmp_path / "pca")
    torch.testing.assert_close(projected.project(full.features_ND), projected.features_ND, rtol=0, atol=1e-6)
    assert projected.info["pca"]["dims"] == 8
    assert 0 < projected.info["pca"]["variance"] <= 1
    assert torch.equal(full.project(full.features_ND), full.features_ND)


def test_scores_stand_where_a_protocol_has_queries(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each form; the first and the last are what cmc_map returns for the files."""
    embedded(config, tmp_path / "scored")
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "float" in line or "components" in line]
    assert len(lines) == 3, output
    embedded(config, tmp_path / "full", Form())
    scores = cmc_map(**load_features(tmp_path / "full").arguments())
    assert f"{100 * scores['mAP']:.1f}" in lines[0]
    assert f"{100 * cmc_map(**load_features(tmp_path / 'scored').arguments())['mAP']:.1f}" in lines[2]


def test_a_set_without_labels_is_embedded(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line says that there are no scores; the features have no protocol, and give cmc_map no arguments."""
    for number in range(6):
        (tmp_path / f"pictures/track{number}").mkdir(parents=True)
        for frame in (1, 2):
            (tmp_path / f"pictures/track{number}/{frame}.jpg").write_bytes(picture(10 * number + frame, (32, 16)))
    command = ["build", "folder", "--unlabelled", "--source", str(tmp_path / "pictures"), "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "shards")]) == 0
    embedded(changed(config, {"data.shards": str(tmp_path / "shards")}), tmp_path / "features", Form("float16", 5))
    assert "no scores: protocol unlabelled, split 0 of pictures has no queries" in capsys.readouterr().out
    unlabelled = load_features(tmp_path / "features")
    assert unlabelled.table["key"].to_pylist() == [f"track{number}" for number in range(6)]
    assert unlabelled.features_ND.shape == (6, 5)
    assert unlabelled.info["protocol"] is None
    with pytest.raises(UserError, match="no protocol, so no queries"):
        unlabelled.arguments()


def test_what_cannot_be_embedded_is_refused(config: Config, tiny_config: Path, tmp_path: Path) -> None:
    """Degraded frames, too many components, an unknown protocol, a folder of other content."""
    reader = shards.open(config.data.shards)
    degraded = load_config(tiny_config, ["--eval.occlusion", "0.3"])
    with pytest.raises(UserError, match="degrade frames"):
        check(reader, degraded, Form())
    for dims in (0, 119, 100_000):
        with pytest.raises(UserError, match=rf"--dims {dims}: 119 tracklets .* have 1 to 118 principal"):
            check(reader, config, Form(dims=dims))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(UserError, match="holds more than features"):
        embedded(config, tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").is_file()


def test_features_that_are_not_finite_are_refused(config: Config, tmp_path: Path) -> None:
    """A diverged model writes no features."""
    model = MSTAT(config.model)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(torch.nan)
    with pytest.raises(UserError, match="features are not finite: check the weights"):
        embed_set(Engine(config), model, shards.open(config.data.shards), config, Form(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
