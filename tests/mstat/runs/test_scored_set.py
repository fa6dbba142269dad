"""Scores of the run's own set go into the run folder, scores of any other set into a folder of its name."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import shards
from mstat.config import Config, DataConfig, EvalConfig, TrainConfig, changed
from mstat.config.cli import load_config, save_config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.trial import Trial
from mstat.model import MSTAT
from mstat.report.run_reader import Folder
from mstat.runs.folder import write_environment
from mstat.runs.scored_set import deciding, evaluation_folder, folder_in, scored_checksum
from mstat.training.data_sets import evaluate_on_sets
from mstat.training.splits import train_runs
from mstat.weights.export import export
from shards.read import Reader
from shards.records import Protocol, Role, Source, SourceTracklet
from shards.write import building, write
from tests.mstat.report.conftest import TRACKLETS, make_frames

SPLITS = ("0", "1")


def make_set(
    folder: Path,
    name: str,
    roles: tuple[Role, Role] = (Role.QUERY, Role.GALLERY),
    last_cam: int = 2,
    trains: bool = True,
) -> Reader:
    """Four tracklets of two people in a set of two protocols; the second split of the first has no right match.

    Args:
        trains: Whether the query is a training tracklet, too.
    """
    first = roles[0] | Role.TRAIN if trains else roles[0]
    tracklets = []
    for key in TRACKLETS:
        is_query = key == "0001C1T0001"
        role = first if is_query else roles[1]
        alone = Role.GALLERY if key != "0001C2T0001" else Role.TRAIN
        every = (role, first if is_query else alone, role)
        camid = last_cam if key == "0001C2T0001" else int(key[5])
        tracklets.append(SourceTracklet(key, int(key[:4]), camid, TRACKLETS[key], every, partial(make_frames, key)))
    protocols = (Protocol("official", SPLITS), Protocol("other/one", ("0",)))
    with building(folder) as out:
        write(Source(name, protocols, tuple(tracklets)), out)
    return shards.open(folder)


def make_run(run: Path, data: DataConfig, checksum: str | None, evaluation: dict[str, Any] | None = None) -> Path:
    run.mkdir()
    save_config(Config(run=str(run), data=data), run / "config.yaml")
    if checksum:
        write_environment(run, 1, checksum)
    if evaluation is not None:
        (run / "evaluation.json").write_text(json.dumps(evaluation))
    return run


def test_where_scores_go(tmp_path: Path) -> None:
    """By checksum, wherever a set lies; another protocol or split has a folder of its own, as have two sets of one
    name."""
    own = make_set(tmp_path / "own", "greys")
    rebuilt = make_set(tmp_path / "rebuilt", "greys", last_cam=3)
    other = make_set(tmp_path / "other", "../We ird", last_cam=4)
    another = make_set(tmp_path / "another", "../We ird", last_cam=5)
    data = DataConfig(shards=str(tmp_path / "own"))
    named = {"dataset": {"name": "greys", "checksum": own.checksum}}
    run = make_run(tmp_path / "run", data, own.checksum, named)

    def name(reader: Reader, protocol: str | None = None, split: str | None = None, run: Path = run) -> str:
        folder = evaluation_folder(run, reader, DataConfig(shards=reader.path, protocol=protocol, split=split))
        return str(folder.relative_to(run))

    assert name(own) == name(own, "official", "0") == "."
    moved = tmp_path / "elsewhere"
    (tmp_path / "own").rename(moved)
    assert name(shards.open(moved)) == "."
    assert name(own, split="1") == "evaluations/greys-split-1"
    assert name(own, protocol="other/one") == "evaluations/greys-other-one"
    assert name(rebuilt) == f"evaluations/greys-{rebuilt.checksum[:8]}"
    assert name(other) == "evaluations/We-ird"
    (run / "evaluations" / "We-ird").mkdir(parents=True)
    content = {"dataset": {"name": other.name, "checksum": other.checksum}}
    (run / "evaluations" / "We-ird" / "evaluation.json").write_text(json.dumps(content))
    assert name(other) == "evaluations/We-ird"
    assert name(another) == f"evaluations/We-ird-{another.checksum[:8]}"
    second = make_run(tmp_path / "second", dataclasses.replace(data, protocol="official", split="1"), own.checksum)
    assert name(own, split="1", run=second) == "."
    assert name(own, split="0", run=second) == "evaluations/greys-split-0"
    assert scored_checksum(run, {}) == own.checksum  # of an earlier version
    old = make_run(tmp_path / "old", dataclasses.replace(data, shards=own.path), None)
    assert name(own, run=old) == "."
    assert name(other, run=old) == "evaluations/We-ird"


def test_settings_count_where_they_have_an_effect() -> None:
    """A stride in its mode only; flip and stride have no value in other evaluations, nor in files of old versions."""
    usual = deciding(EvalConfig())
    assert (usual["stride"], usual["flip"]) == (None, None)
    assert deciding(EvalConfig(stride=9)) == usual
    assert deciding(EvalConfig(mode="stride", stride=9)) != deciding(EvalConfig(mode="stride", stride=8))
    assert deciding(EvalConfig(flip=True)) == {**usual, "flip": True}


def test_another_set_leaves_the_run_as_it_was(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, picture and page of it in its folder, named with its checksum; the run's own stay byte for byte, and its
    report has both. A plane of an earlier evaluation does not stay beside new scores."""
    flags = ["--run", str(tmp_path / "run"), "--data.num_workers", "0", "--eval.baselines", "false"]
    config = load_config(tiny_config, flags)
    reader = shards.open(config.data.shards)
    run = make_run(tmp_path / "run", dataclasses.replace(config.data, shards="far/away"), "ab" * 32)
    own = {"dataset": {"name": "far", "checksum": "ab" * 32}, "protocol": "official", "split": "0", "warnings": []}
    counts = {"num_query": 9, "num_valid_query": 9, "num_gallery": 9, "mAP": 0.125, "rank1": 0.125, "stages": {}}
    for name in ("evaluation.json", "rankings.json", "embedding.json"):
        (run / name).write_text(json.dumps({**own, **counts, "queries": []}))
    before = {path.name: path.read_bytes() for path in run.glob("*.json")}
    torch.manual_seed(0)
    weights = {f"model.{key}": value for key, value in MSTAT(config.model).state_dict().items()}
    export(run, weights, config.model)
    folder = run / "evaluations" / reader.name
    folder.mkdir(parents=True)
    (folder / "embedding.json").write_text("{}")
    evaluate_on_sets([config], Engine(config))
    assert {name: (run / name).read_bytes() for name in before} == before
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "evaluation.json", "figures", "queries.json", "rankings.json", "report.html",
    }  # fmt: skip
    for name in ("evaluation.json", "rankings.json", "queries.json"):
        record = json.loads((folder / name).read_text())
        assert record["dataset"] == {"name": reader.name, "checksum": reader.checksum}
        assert record["eval"]["num_frames"] == config.eval.num_frames
    output = " ".join(capsys.readouterr().out.split())
    assert f"of {reader.name}" in output
    assert "not the set that" in output
    page = (run / "report.html").read_text()
    assert f'href="evaluations/{reader.name}/report.html"' in page
    assert "12.5" in page
    assert Folder(folder).checksum == reader.checksum

    evaluate_on_sets([load_config(tiny_config, [*flags, "--eval.num_frames", "2"])], Engine(config))
    assert "eval.num_frames 4 (now 2)" in " ".join(capsys.readouterr().out.split())


def test_nothing_to_score_is_said_at_the_start(tmp_path: Path) -> None:
    """The message has the reason for no valid query and the way out; all splits are checked before the first trains."""
    messages = {
        "one camera": (make_set(tmp_path / "a", "a", last_cam=1), "0", "query's own camera|queries' identities"),
        "junk": (make_set(tmp_path / "b", "b", (Role.QUERY, Role.GALLERY | Role.JUNK)), "0", "except as junk"),
        "nobody": (make_set(tmp_path / "c", "c"), "1", "no identity of a query is in the gallery:? ?"),
    }
    for reader, split, message in messages.values():
        config = Config(data=DataConfig(shards=reader.path, split=split), train=TrainConfig(precision="no"))
        with pytest.raises(UserError, match=f"none of the 1 queries .*({message}).*--train.eval_every null"):
            Trial(Engine(config), reader, config)
    config = changed(config, {"run": str(tmp_path / "run"), "data.split": "all"})
    with pytest.raises(UserError, match="none of the 1 queries"):
        train_runs(config, Engine(config))
    assert not (tmp_path / "run").exists()


def test_a_collapsed_model_is_said(tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that sees nothing: in evaluation.json, the table and the report; the plane is drawn all the same."""
    flags = ["--run", str(tmp_path / "run"), "--data.num_workers", "0", "--eval.baselines", "false"]
    config = load_config(tiny_config, [*flags, "--eval.pictures", "true"])
    run = make_run(tmp_path / "run", config.data, shards.open(config.data.shards).checksum)
    weights = {f"model.{key}": value for key, value in MSTAT(config.model).state_dict().items()}
    weights["model.stem.patch.weight"].zero_()
    export(run, weights, config.model)
    evaluate_on_sets([config], Engine(config))
    warnings = json.loads((run / "evaluation.json").read_text())["warnings"]
    assert "Stages I+II+III: all tracklets have the same feature" in warnings[-1]
    assert "Stage III: all tracklets have the same feature" in " ".join(capsys.readouterr().out.split())
    page = (run / "report.html").read_text()
    assert 'class="note warning">Not comparable with published scores: Stage I: all tracklets' in page


@pytest.mark.parametrize("name", ["evaluations", "evaluations/other"])
def test_scores_leave_a_run_through_no_link(name: str, tmp_path: Path) -> None:
    """A stranger's run whose folder of evaluations is a link to elsewhere: refused by name."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{name} is a link, which mstat does not follow"):
        folder_in(tmp_path / "run", "other")
