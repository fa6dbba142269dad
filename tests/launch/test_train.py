"""The trainer as a user starts it: one process or several, undisturbed or killed, with good settings and bad."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launch import train
from tests.conftest import LOSSES, NO_SCORES, assert_same_losses, metrics, run, start
from tests.mstat.runs.test_scored_set import make_set


def test_a_run_folder_holds_what_it_promises(reference: Path) -> None:
    """Every file of the contract; a step's record has every loss; the loss falls by a fifth at least."""
    names = {path.name for path in reference.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "state.json", "model.safetensors",
        "model.json", "evaluation.json", "rankings.json", "queries.json", "report.html",
        "run.log",
    }  # fmt: skip
    assert json.loads((reference / "state.json").read_text()) == {"state": "done", "step": 20, "reason": None}
    records = metrics(reference)
    assert [record["step"] for record in records] == list(range(1, 21))
    assert all(record.keys() >= LOSSES | {"epoch", "lr", "grad_norm", "clips_per_s"} for record in records)
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert [path.name for path in sorted((reference / "checkpoints").iterdir())] == ["step-000000015", "step-000000020"]
    evaluation = json.loads((reference / "evaluation.json").read_text())
    assert evaluation["num_valid_query"] <= evaluation["num_query"]
    assert evaluation["stages"]["I+II+III"]["mAP"] == evaluation["mAP"]


@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3"])
def test_two_processes_train_as_one(kind: str, reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """DDP, ZeRO-2 and ZeRO-3 on two processes: every loss of 20 steps to 1e-5, scores within 0.1 points."""
    status, output = run("train", ["--config", tiny_config, "--run", tmp_path / "run"], accelerate=kind, processes=2)
    assert status == 0, output
    for ours, one in zip(metrics(tmp_path / "run"), metrics(reference), strict=True):
        for name in LOSSES:
            assert ours[name] == pytest.approx(one[name], rel=1e-5), (one["step"], name)
    scores = [json.loads((folder / "evaluation.json").read_text()) for folder in (tmp_path / "run", reference)]
    for name in ("mAP", "rank1"):
        assert scores[0][name] == pytest.approx(scores[1][name], abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "recomputed"),
    [
        ("ddp", ["--train.activation_checkpointing", "true", "--batch.chunk_size", "4"]),
        ("zero2", ["--batch.chunk_size", "1"]),
    ],
)
def test_recomputing_trains_alike(
    kind: str, recomputed: list[str], reference: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """Blocks or chunks on two processes: every loss to 1e-5 of one process that keeps its activations."""
    flags = ["--config", tiny_config, "--run", tmp_path / "run", *recomputed]
    status, output = run("train", [*flags, *NO_SCORES], accelerate=kind, processes=2)
    assert status == 0, output
    assert_same_losses(tmp_path / "run", reference, rel=1e-5)


def test_evaluation_is_the_same_on_two_processes(reference: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """launch/evaluate.py of one run on two data sets, on 1 and 2 processes: both evaluation.json bit for bit, that of
    the own set as training left it."""
    make_set(tmp_path / "other", "other")
    flags = ["--run", reference, "--data.shards", tiny_shards, tmp_path / "other"]
    written = []
    for accelerate, processes in ((None, None), ("ddp", 2)):
        out = tmp_path / str(processes)
        status, output = run("evaluate", [*flags, "--out", out], accelerate=accelerate, processes=processes)
        assert status == 0, output
        assert "on 2 data sets" in output
        assert "synthetic (own)" in output
        names = "synthetic", "other"
        written.append([(out / name / "evaluation.json").read_bytes() for name in names])
    assert written[0] == written[1]
    assert written[0][0] == (reference / "evaluation.json").read_bytes()


def lines(path: Path) -> int:
    """Of a file that may be in the middle of a write."""
    return len(path.read_text().splitlines())


def test_a_killed_run_ends_with_the_same_weights(reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """SIGKILL between steps, start again: goes on from the newest whole checkpoint, ends bit for bit the same."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    process = start("train", arguments)
    deadline = time.monotonic() + 120
    # A checkpoint is written behind the steps: seven of them may be done before that of the fifth has its name.
    while not (folder / "checkpoints" / "step-000000005").is_dir() or lines(folder / "metrics.jsonl") < 7:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    state = json.loads((folder / "state.json").read_text())
    assert state["state"] == "running"
    assert state["step"] < 20
    # What a crash in the middle of a save leaves behind is not taken for a checkpoint.
    (folder / "checkpoints" / ".step-000000019").mkdir()

    status, output = run("train", arguments, accelerate=None)
    assert status == 0, output
    assert [record["step"] for record in metrics(folder)] == list(range(1, 21))
    assert [record["loss"] for record in metrics(folder)] == [record["loss"] for record in metrics(reference)]
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, reference))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.num_heads", "4"], "made with model.num_heads="),
        (["--seed", "5"], "made with seed=0, this run has 5"),
        (["--train.steps", "10"], "has 20 steps, but train.steps is 10"),
    ],
)
def test_a_finished_run_is_not_made_another(flags: list[str], message: str, reference: Path, tiny_config: Path) -> None:
    """Going on with other settings than the checkpoint's is refused, and the run stays as it was."""
    before = (reference / "state.json").read_bytes(), (reference / "model.safetensors").read_bytes()
    status, output = run("train", ["--config", tiny_config, "--run", reference, *flags], accelerate=None)
    assert status != 0
    assert message in output
    assert before == ((reference / "state.json").read_bytes(), (reference / "model.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optim.lrr", "1"], "unknown setting 'optim.lrr': did you mean 'optim.lr'?"),
        (["--data.shards", "nowhere"], "nowhere"),
        (["--data.protocol", "offical"], "offical"),
        (["--batch.num_identities", "10"], "batch.num_identities is 10, but the training set has 9 identities"),
        (["--model.width", "33"], "33"),
    ],
)
def test_bad_settings_end_with_one_message(
    flags: list[str],
    message: str,
    tiny_config: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Exit status not 0, one error line that names what is wrong, no run folder left."""
    try:
        status: object = train.main(["--config", str(tiny_config), "--run", str(tmp_path / "run"), *flags])
    except SystemExit as ended:
        status = ended.code
    output = "".join(capfd.readouterr())
    assert status in (1, 2)
    assert message in output
    assert "Traceback" not in output
    assert sum("error:" in line or "unknown setting" in line for line in output.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_more_processes_than_clips_are_refused(tiny_config: Path, tmp_path: Path) -> None:
    """Two processes cannot share one clip; the message says how many may start and what to raise."""
    flags = ["--batch.num_identities", 1, "--batch.num_tracklets", 1]
    status, output = run(
        "train", ["--config", tiny_config, "--run", tmp_path / "run", *flags], accelerate="ddp", processes=2
    )
    assert status != 0
    assert "2 processes share 1 clip " in output


@pytest.mark.parametrize(
    ("processes", "flags", "message"),
    [
        (1, ["--train.compile", "true"], "train.compile does not work with ZeRO-3"),
        (
            2,
            ["--batch.chunk_size", "1", "--batch.num_identities", "5", "--batch.num_tracklets", "3"],
            "batch.chunk_size 1 does not work with ZeRO-3 where 2 processes share 15 clips unevenly",
        ),
    ],
)
def test_what_zero3_cannot_do(
    processes: int, flags: list[str], message: str, tiny_config: Path, tmp_path: Path
) -> None:
    """Refused before the training starts; the message says what to change, and what to launch instead."""
    flags = ["--config", str(tiny_config), "--run", str(tmp_path / "run"), *flags]
    status, output = run("train", flags, accelerate="zero3", processes=processes)
    assert status != 0
    assert message in output
    assert "zero2.yaml" in output


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config: Path, tmp_path: Path) -> None:
    """The step and the term are named, state.json says failed, and no checkpoint holds what came of it."""
    folder = tmp_path / "run"
    flags = ["--optim.lr", "1e30", "--train.save_every", 1]
    status, output = run("train", ["--config", tiny_config, "--run", folder, *flags], accelerate=None)
    assert status != 0
    assert "error: step 2: loss" in output
    assert "step-000000001" in output
    assert "NotFiniteError: step 2: loss" in (folder / "run.log").read_text()
    assert json.loads((folder / "state.json").read_text())["state"] == "failed"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000000001"]
