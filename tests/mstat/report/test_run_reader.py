"""A run folder as its report reads it: what is there, and in words what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mstat.errors import UserError
from mstat.report.run_reader import Folder, check_is_run
from shards.read import Reader


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """By what was looked for; one of the two files makes a run."""
    with pytest.raises(UserError, match="none: no such run folder"):
        check_is_run(tmp_path / "none")
    with pytest.raises(UserError, match=r"it has neither config\.yaml nor evaluation\.json"):
        check_is_run(tmp_path)
    (tmp_path / "evaluation.json").mkdir()
    with pytest.raises(UserError, match="not a run folder"):
        check_is_run(tmp_path)
    (tmp_path / "config.yaml").touch()
    check_is_run(tmp_path)


def test_json_is_an_object_or_a_sentence(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.json("a.json") == "a.json is not in the run folder."
    (tmp_path / "a.json").write_text("[1]")
    assert folder.json("a.json") == "a.json cannot be read: it holds no JSON object."
    (tmp_path / "a.json").write_text("{")
    assert str(folder.json("a.json")).startswith("a.json cannot be read: ")
    (tmp_path / "a.json").write_text('{"x": 1}')
    assert folder.json("a.json") == {"x": 1}


def test_records_come_in_the_order_of_steps(tmp_path: Path) -> None:
    """Of two lines of a step the later one counts: a run that goes on writes some again. A kill may cut one short."""
    journal = tmp_path / "metrics.jsonl"
    journal.write_text('{"step": 2, "loss": 1}\n{"step": 1, "loss": 3}\n{"step": 2, "loss": 2.5}\n{"step": 3, "lo')
    records, remark = Folder(tmp_path).records()
    assert records == [{"step": 1, "loss": 3}, {"step": 2, "loss": 2.5}]
    assert remark == "metrics.jsonl: 1 unreadable line(s) left out."


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        '{"step": null}',
        '{"step": -1}',
        '{"step": 1e300}',
        '{"step": Infinity}',
        '{"step": 1, "loss": "much"}',
        '{"step": 1, "loss": 1' + "0" * 400 + "}",
        '{"step": 1, "loss": {}}',
    ],
    ids=lambda line: line[:30],
)
def test_a_line_that_no_run_writes_is_left_out(line: str, tmp_path: Path) -> None:
    """The others are shown; numbers that are not finite are numbers, and null stands for one that is not there."""
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 4, "loss": NaN, "mAP": null}}\n')
    (record,), remark = Folder(tmp_path).records()
    assert (record["step"], str(record["loss"]), record["mAP"]) == (4, "nan", None)
    assert remark == "metrics.jsonl: 1 unreadable line(s) left out."


def test_keys_that_are_read(tmp_path: Path) -> None:
    """Others of the line may be anything, as the lists in evaluations.jsonl are."""
    (tmp_path / "evaluations.jsonl").write_text('{"step": 4, "mAP": 0.5, "cmc": [0.1, 0.2]}\n')
    records, remark = Folder(tmp_path).records("evaluations.jsonl", ("step", "mAP", "rank1"))
    assert (records, remark) == ([{"step": 4, "mAP": 0.5, "rank1": None}], "")


def test_a_journal_that_holds_nothing(tmp_path: Path) -> None:
    """Empty is another thing than missing."""
    assert Folder(tmp_path).records() == ([], "metrics.jsonl is not in the run folder.")
    (tmp_path / "metrics.jsonl").touch()
    assert Folder(tmp_path).records() == ([], "metrics.jsonl is empty.")


def test_settings_of_a_yaml_that_is_none(tmp_path: Path) -> None:
    """A report is made nevertheless."""
    for text in ("- a", "a: [", "data: 7", ""):
        (tmp_path / "config.yaml").write_text(text)
        assert Folder(tmp_path).setting("data", "shards") is None
    (tmp_path / "config.yaml").write_text("data: {shards: place}")
    assert Folder(tmp_path).setting("data", "shards") == "place"


def test_rankings_of_another_evaluation_are_told(tmp_path: Path) -> None:
    """By what differs. Files of an earlier version say nothing of their set, and are shown."""
    (tmp_path / "evaluation.json").write_text(json.dumps({"dataset": {"name": "MARS"}, "eval": {"num_frames": 4}}))
    folder = Folder(tmp_path)
    assert folder.of_other_scores({"dataset": {"name": "MARS"}, "eval": {"num_frames": 4}}) is None
    assert folder.of_other_scores({}) is None
    message = folder.of_other_scores({"dataset": {"name": "MARS"}, "eval": {"num_frames": 8}})
    assert message == (
        "Not shown: it belongs to another evaluation than evaluation.json, with another eval ({'num_frames': 8})."
    )


def test_a_folder_of_splits_is_no_single_run(tmp_path: Path) -> None:
    assert not Folder(tmp_path).is_set
    (tmp_path / "evaluation.json").write_text('{"splits": {}}')
    assert Folder(tmp_path).is_set


def test_an_evaluation_belongs_to_the_run_around_it(tmp_path: Path) -> None:
    """RUN/evaluations/<name> has scores of RUN's model on another set."""
    inner = tmp_path / "run" / "evaluations" / "other"
    inner.mkdir(parents=True)
    (inner / "evaluation.json").write_text('{"mAP": 0.5}')
    assert Folder(inner).of_run == (tmp_path / "run").resolve()
    assert Folder(tmp_path / "run").of_run == tmp_path / "run"
    assert Folder(tmp_path / "run").others == {"other": {"mAP": 0.5}}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "config.yaml, which names the shards, is not in the run folder"),
        ("seed: 1", "config.yaml does not name the shards (data.shards)"),
        ("data: {shards: 'http://host/shards'}", "config.yaml has a URL as data.shards, which reports open only"),
        ("data: {shards: nowhere/shards}", "nowhere/shards (data.shards) does not exist"),
    ],
)
def test_why_there_are_no_frames(config: str | None, reason: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    reader = Folder(tmp_path).reader
    assert isinstance(reader, str)
    assert reader.startswith(f"No frames: {reason}")


def test_frames_of_another_set_are_not_shown(tmp_path: Path, reader: Reader) -> None:
    """The evaluation holds the checksum of its set."""
    evaluation = {"dataset": {"name": "greys", "checksum": reader.checksum}}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert Folder(tmp_path, reader).reader is reader
    evaluation["dataset"]["checksum"] = "0" * 64
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert Folder(tmp_path, reader).reader == "No frames: the shards differ from those of the run (another checksum)"


def test_pictures_lie_in_the_folder_of_figures(tmp_path: Path) -> None:
    """Under a plain name; those of an earlier report go by a pattern."""
    folder = Folder(tmp_path)
    folder.save("cmc.svg", b"<svg/>")
    folder.save("heatmap-1.jpg", b"jpeg")
    assert (tmp_path / "figures" / "cmc.svg").read_bytes() == b"<svg/>"
    folder.forget("heatmap-*")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["cmc.svg"]
    for name in ("../cmc.svg", "/cmc.svg", "a/b"):
        with pytest.raises(UserError, match="is not a file name for a picture"):
            folder.save(name, b"")
