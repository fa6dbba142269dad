"""`launch/evaluate.py --data.shards A B C`: the scores of single evaluations, and nothing begun that cannot end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import shards
from launch.evaluate import arguments
from mstat.config import Config, changed
from mstat.config.cli import load_config, save_config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.model import MSTAT
from mstat.training.data_sets import evaluate_on_sets, set_names
from mstat.weights.export import export
from shards.records import DataError, Role
from tests.mstat.runs.test_scored_set import SPLITS, make_run, make_set


@pytest.fixture
def config(tiny_config: Path, tmp_path: Path) -> Config:
    """The settings of a run on the set `own` of four tracklets, without a model."""
    make_set(tmp_path / "own", "own", last_cam=3, trains=False)
    flags = ["--run", str(tmp_path / "run"), "--data.num_workers", "0", "--eval.baselines", "false"]
    config = load_config(tiny_config, [*flags, "--data.shards", str(tmp_path / "own")])
    make_run(tmp_path / "run", config.data, shards.open(config.data.shards).checksum)
    return config


def add_model(config: Config) -> None:
    torch.manual_seed(0)
    weights = {f"model.{key}": value for key, value in MSTAT(config.model).state_dict().items()}
    export(Path(config.run), weights, config.model)


def on(config: Config, *places: Path) -> list[Config]:
    return [changed(config, {"data.shards": str(place)}) for place in places]


def scores_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("evaluation.json"))}


def test_the_scores_of_single_evaluations(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit, in the same folders, also of two sets with one name. The table has each set, and marks the run's
    own."""
    add_model(config)
    for name, camera in (("first", 4), ("second", 5)):
        make_set(tmp_path / name, "../We ird", last_cam=camera)
    places = tmp_path / "own", tmp_path / "first", tmp_path / "second"
    second = shards.open(places[2]).checksum[:8]
    run = Path(config.run)
    for one in on(config, *places[:2]):
        evaluate_on_sets([one], Engine(config))
    single = scores_in(run)
    assert set(single) == {"evaluation.json", "evaluations/We-ird/evaluation.json"}
    for name in single:
        (run / name).unlink()
    capsys.readouterr()
    evaluate_on_sets(on(config, *places), Engine(config))
    together = scores_in(run)
    assert set(together) == {*single, f"evaluations/We-ird-{second}/evaluation.json"}
    assert {name: together[name] for name in single} == single
    table = " ".join(capsys.readouterr().out.split()).split("on 3 data sets")[1]
    assert "own (own)" in table
    assert table.count("../We ird") == 2
    assert "1 of 1" in table


def test_runs_of_all_splits(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each set has its scores before the next begins; another set has the mean over the runs."""
    make_set(tmp_path / "other", "other", last_cam=4)
    run = Path(config.run)
    save_config(changed(config, {"data.split": "all"}), run / "config.yaml")
    for split in SPLITS:
        of_split = changed(config, {"run": str(run / f"split-{split}"), "data.split": split})
        make_run(Path(of_split.run), of_split.data, shards.open(of_split.data.shards).checksum)
        add_model(of_split)
    evaluate_on_sets(on(changed(config, {"data.split": "0"}), tmp_path / "other", tmp_path / "own"), Engine(config))
    assert set(scores_in(run)) == {
        "evaluations/other/evaluation.json",
        "split-0/evaluation.json",
        "split-0/evaluations/other/evaluation.json",
        "split-1/evaluations/other/evaluation.json",
    }
    mean = json.loads((run / "evaluations/other/evaluation.json").read_text())
    assert (mean["split"], list(mean["splits"])) == ("0", list(SPLITS))
    output = " ".join(capsys.readouterr().out.split())
    assert "own (own)" in output
    assert output.index("run of split 1") < output.index("on 2 data sets")


def test_a_wrong_set_costs_no_evaluation(config: Config, tmp_path: Path) -> None:
    """Refused before the model is loaded, of which there is none: a set that is missing, given twice, the same by
    checksum, with nothing to score, or with tracklets that trained the run."""
    make_set(tmp_path / "other", "other", last_cam=4)
    make_set(tmp_path / "lonely", "lonely", last_cam=1)
    make_set(tmp_path / "junk", "junk", (Role.QUERY, Role.GALLERY | Role.JUNK))
    shutil.copytree(tmp_path / "other", tmp_path / "copy")
    own, other, copy, lonely, junk, nowhere = (
        tmp_path / name for name in ("own", "other", "copy", "lonely", "junk", "nowhere")
    )
    for places, message in (
        ([other, nowhere], "nowhere"),
        ([other, own], "own is given twice: give each data set once"),
        ([other, copy], f"copy is the same data set as {other} .checksum.: give each data set once"),
        ([other, lonely], "lonely: none of the 1 queries"),
        ([other, junk], "junk: none of the 1 queries"),
    ):
        with pytest.raises((UserError, DataError), match=message):
            evaluate_on_sets(on(config, own, *places), Engine(config))
    run = make_run(tmp_path / "trained", changed(config, {"data.shards": str(other)}).data, shards.open(other).checksum)
    with pytest.raises(UserError, match="other: the model was trained with 1 of the tracklets"):
        evaluate_on_sets(on(changed(config, {"run": str(run)}), own, other), Engine(config))
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        evaluate_on_sets(on(config, own, other), Engine(config))
    assert not scores_in(Path(config.run))


def test_sets_without_the_protocol_or_split_are_named_together(
    config: Config, tiny_shards: Path, tmp_path: Path
) -> None:
    """One message for all of them, with what each has and the way out."""
    make_set(tmp_path / "other", "other", last_cam=4)
    make_set(tmp_path / "another", "another", last_cam=5)
    places = tmp_path / "another", tmp_path / "other", tiny_shards
    with pytest.raises(UserError) as refusal:
        evaluate_on_sets(on(changed(config, {"data.protocol": "official/none"}), *places), Engine(config))
    assert str(refusal.value).count("has no protocol 'official/none' (it has official, other/one)") == 2
    assert f"{tiny_shards} has no protocol 'official/none' (it has " in str(refusal.value)
    assert "score these with a command of their own" in str(refusal.value)
    with pytest.raises(
        UserError, match=rf"^{tiny_shards} has no split '1' .it has 0.: --data.protocol and --data.split"
    ):
        evaluate_on_sets(on(changed(config, {"data.split": "1"}), *places), Engine(config))


def test_a_damaged_frame_leaves_what_is_scored(config: Config, tmp_path: Path) -> None:
    """The first set stays, the third is not begun; the error says which are missing and how to go on."""
    add_model(config)
    for number, name in enumerate(("other", "third set"), 4):
        make_set(tmp_path / name, name, last_cam=number)
    (tar,) = (tmp_path / "other").glob("*.tar")
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(DataError) as error:
        evaluate_on_sets(on(config, tmp_path / "own", tmp_path / "other", tmp_path / "third set"), Engine(config))
    assert set(scores_in(Path(config.run))) == {"evaluation.json"}
    (note,) = error.value.__notes__
    assert note.startswith("the scores on own are kept; other failed, and these are not scored: other, third set: ")
    assert f"go on with --data.shards {tmp_path}/other '{tmp_path}/third set', or leave other out" in note


def test_names_of_sets_are_told_apart(tmp_path: Path) -> None:
    """By their checksum, also where only the names of their folders would be the same."""
    first, second, third = (
        make_set(tmp_path / str(camera), name, last_cam=camera) for camera, name in ((2, "a b"), (3, "a/b"), (4, "c"))
    )
    assert set_names([first, third]) == ["a b", "c"]
    assert set_names([first, second]) == [f"a b {first.checksum[:8]}", f"a/b {second.checksum[:8]}"]


@pytest.mark.parametrize(
    ("words", "sets", "overrides"),
    [
        ([], [], []),
        (["--data.shards", "a"], ["a"], []),
        (["--data.shards=a"], ["a"], []),
        (["--data.shards", "a", "b", "--eval.num_frames", "8"], ["a", "b"], ["--eval.num_frames", "8"]),
        (["--eval.num_frames", "8", "--data.shards", "a", "b", "--out", "c"], ["a", "b"], ["--eval.num_frames", "8"]),
        (["--data.shards", "a", "--data.split", "0", "--data.shards", "b"], ["a", "b"], ["--data.split", "0"]),
    ],
)
def test_sets_on_the_command_line(words: list[str], sets: list[str], overrides: list[str]) -> None:
    """One or several values, at any place; all other settings pass through."""
    options, others = arguments(["--run", "run", *words])
    assert (options.shards, others) == (sets, overrides)
