"""The robustness study: what it scores, that it can be stopped, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import shards
from mstat.config import Config, EvalConfig, changed
from mstat.config.cli import load_config, save_config
from mstat.distributed.engine import Engine
from mstat.evaluation import robustness
from mstat.evaluation.evaluate import score
from mstat.evaluation.robustness import study, sweeps
from mstat.model import MSTAT
from mstat.report.robustness import caption, table
from mstat.report.tables import Row
from mstat.runs.scored_set import deciding
from mstat.weights.export import export


@pytest.fixture
def config(tiny_config: Path, tmp_path: Path) -> Config:
    """A run folder with an untrained model in it: scores there are, whatever they are."""
    config = load_config(tiny_config, ["--run", str(tmp_path / "run"), "--data.num_workers", "0"])
    run = Path(config.run)
    run.mkdir()
    save_config(config, run / "config.yaml")
    torch.manual_seed(0)
    export(run, {f"model.{key}": value for key, value in MSTAT(config.model).state_dict().items()}, config.model)
    return config


def test_one_setting_varies_at_a_time() -> None:
    """1 to 64 frames, up to half the area, an eighth of the height up to the stored one; all else is the run's."""
    config = Config(eval=EvalConfig(num_frames=8, mode="clips", occlusion=0.2, stage_norm=True))
    settings_of = sweeps(config)
    assert [settings.num_frames for settings in settings_of["num_frames"]] == [1, 2, 4, 8, 16, 32, 64]
    assert [settings.occlusion for settings in settings_of["occlusion"]] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert [settings.resolution for settings in settings_of["resolution"]] == [28, 56, 84, 112, 168, 224, None]
    base = dataclasses.replace(config.eval, occlusion=0.0)
    for name, of_sweep in settings_of.items():
        mode = "sample" if name == "num_frames" else "clips"
        unlike = {name: getattr(base, name), "mode": "clips"}
        assert all(settings.mode == mode for settings in of_sweep)
        assert all(dataclasses.replace(settings, **unlike) == base for settings in of_sweep)
    segments = sweeps(dataclasses.replace(config, eval=dataclasses.replace(config.eval, mode="segments")))
    assert {settings.mode for settings in segments["num_frames"]} == {"segments"}  # one clip of any number of frames


def test_points_are_scores_of_their_settings(config: Config) -> None:
    """Each equals an evaluation with these settings, bit for bit; the files hold them, and one plot with three panels.

    Occluded queries score otherwise than whole ones.
    """
    result = study(config, Engine(config), quick=True)
    reader = shards.open(config.data.shards)
    torch.manual_seed(0)
    model = MSTAT(config.model)
    for name, of_sweep in sweeps(config, quick=True).items():
        assert len(result["sweeps"][name]) == len(of_sweep)
        for point, settings in zip(result["sweeps"][name], of_sweep, strict=True):
            expected = score(Engine(config), model, reader, dataclasses.replace(config, eval=settings)).evaluation
            assert point["value"] == getattr(settings, name)
            assert (point["mAP"], point["rank1"]) == (expected["mAP"], expected["rank1"])
    assert len({point["mAP"] for point in result["sweeps"]["occlusion"]}) == 3
    assert len(result["points"]) == 3 + 2 + 2  # what two sweeps share is scored once
    run = Path(config.run)
    assert json.loads((run / "robustness.json").read_text()) == json.loads(json.dumps(result))
    page = (run / "robustness.md").read_text()
    assert all(f"| {heading} |" in page for heading in ("test frames", "occluded area", "height in pixels"))
    assert (run / "figures" / "robustness.svg").read_bytes().count(b'id="axes_') == 3
    assert (run / "report.html").read_text().count("Scores on degraded frames: mAP") == 1
    names = [row.name.strip() for row in table(result).rows if isinstance(row, Row)]
    assert names == ["1", "2", "4", "0%", "25%", "50%", "4", "16", "stored"]
    assert "2 frames of each tracklet" in caption(result)
    assert "rows of occluded area and height in pixels degrade the frames of queries only" in caption(result)


def test_texts_name_what_rows_differ_in_and_share() -> None:
    """A progress line has the setting of each sweep; the caption has the settings that all rows share."""
    settings = EvalConfig(num_frames=8, mode="clips", occlusion=0.25, seed=3)
    text = "test frames 8, occluded area 25%, height in pixels stored, mode clips"
    assert robustness._setting_text(settings) == text
    base = {**deciding(settings), "degrade": "all"}
    result = {"base": base, "sweeps": dict.fromkeys(sweeps(Config()), ()), "dataset": {"name": "x"}}
    assert caption(result).endswith("In all rows: eval.seed 3.")
    assert "frames of queries and gallery, with 8 frames per clip, all clips of each tracklet" in caption(result)
    assert "In all rows" not in caption({**result, "base": {**base, "seed": 0}})


def test_a_scored_point_is_not_scored_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill the rest is scored; other weights or settings are scored anew."""
    done: list[EvalConfig] = []
    real = robustness._Scorer.score

    def dying(self: Any, settings: EvalConfig) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(settings)
        return real(self, settings)

    monkeypatch.setattr(robustness._Scorer, "score", dying)
    with pytest.raises(KeyboardInterrupt):
        study(config, Engine(config), quick=True)
    assert len(json.loads((Path(config.run) / "robustness.json").read_text())["points"]) == 3

    def counting(self: Any, settings: EvalConfig) -> dict[str, Any]:
        done.append(settings)
        return real(self, settings)

    monkeypatch.setattr(robustness._Scorer, "score", counting)
    result = study(config, Engine(config), quick=True)
    assert len(done) == len(result["points"]) == 7
    file = Path(config.run) / "robustness.json"
    before = json.loads(file.read_text())
    for point in before["points"]:
        del point["settings"]["stride"], point["settings"]["flip"]  # as an earlier version left it
    file.write_text(json.dumps(before))
    study(config, Engine(config), quick=True)
    assert len(done) == 7
    study(dataclasses.replace(config, eval=dataclasses.replace(config.eval, degrade="all")), Engine(config), quick=True)
    assert len(done) == 7 + 4  # those of them that are degraded

    torch.manual_seed(1)
    weights = {f"model.{key}": value for key, value in MSTAT(config.model).state_dict().items()}
    export(Path(config.run), weights, config.model)
    assert study(config, Engine(config), quick=True)["sweeps"] != result["sweeps"]
    assert len(done) == 7 + 4 + 7


def test_a_set_of_splits_is_refused(config: Config) -> None:
    """Its splits have folders of their own."""
    config = changed(config, {"data.split": "all"})
    save_config(config, Path(config.run) / "config.yaml")
    with pytest.raises(ValueError, match="split-NAME"):
        study(config, Engine(config))
    shutil.rmtree(config.run)
