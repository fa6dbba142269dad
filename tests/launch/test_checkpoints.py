"""Checkpoints as a user takes them: scored, exported and started from, whatever wrote them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mstat
from launch.export import main as export
from mstat.runs.checkpoint import find
from mstat.weights.graphs import METADATA
from tests.conftest import NO_SCORES, run

SHORT = ["--train.steps", 6, "--train.save_every", 4, "--train.eval_every", 3, "--train.keep_best", "true"]
SHORT += ["--train.keep", 1, "--eval.baselines", "false"]
OF_KIND = {"single": [], "zero3": ["--train.ema", 0.9]}  # the weights themselves, and the average of ZeRO-3's parts
MakeRun = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> MakeRun:
    """The folder of a run of six steps, trained once for each kind."""
    runs: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in runs:
            runs[kind] = tmp_path_factory.mktemp(kind) / "run"
            processes = None if kind == "single" else 2
            flags = ["--config", tiny_config, "--run", runs[kind], *SHORT, *OF_KIND[kind]]
            status, output = run("train", flags, accelerate=kind, processes=processes)
            assert status == 0, output
            assert "best evaluation during training: step 3 (--checkpoint best)" in output
        return runs[kind]

    return make


def assert_same_files(ours: Path, theirs: Path) -> None:
    first, second = load_file(ours), load_file(theirs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["single", "zero3"])
def test_a_checkpoint_is_scored_and_exported(kind: str, made: MakeRun, tmp_path: Path) -> None:
    """One process scores and exports what two processes of ZeRO-3 wrote: the last checkpoint gives the run's own
    weights, or their average, bit for bit and its own scores, in a folder of its own; the run's files stay."""
    folder = made(kind)
    before = (folder / "evaluation.json").read_bytes()
    status, output = run("evaluate", ["--checkpoint", folder / "checkpoints" / "step-000000006"], accelerate=None)
    assert status == 0, output
    assert (folder / "evaluation.json").read_bytes() == before
    again = json.loads((folder / "evaluations" / "step-000000006" / "evaluation.json").read_text())
    assert again.pop("checkpoint") == str(folder / "checkpoints" / "step-000000006")
    for name, scores in again["stages"].items():
        assert scores["mAP"] == pytest.approx(json.loads(before)["stages"][name]["mAP"], abs=1e-3)

    assert export(["--run", str(folder), "--checkpoint", "newest", "--out", str(tmp_path / "out")]) == 0
    assert_same_files(tmp_path / "out" / "model.safetensors", folder / "model.safetensors")
    assert json.loads((tmp_path / "out" / "model.json").read_text()) == json.loads((folder / "model.json").read_text())


def test_the_best_checkpoint_is_kept(made: MakeRun) -> None:
    """Beside the newest one, although it is older and `train.save_every` asks for no save at its step;
    evaluations.jsonl says which it is."""
    folder = made("single")
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-000000003", "step-000000006"]
    (record,) = map(json.loads, (folder / "evaluations.jsonl").read_text().splitlines())
    assert (record["step"], record["kept"]) == (3, True)
    assert find(folder, "best") == folder / "checkpoints" / "step-000000003"


def test_a_graph_of_a_checkpoint(made: MakeRun, tmp_path: Path) -> None:
    """Has the features of `mstat.load` of that checkpoint, and names it; the run was trained from scratch."""
    checkpoint = made("single") / "checkpoints" / "step-000000003"
    assert export(["--checkpoint", str(checkpoint), "--out", str(tmp_path), "--format", "torch"]) == 0
    extra = {METADATA: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    frames = torch.randint(0, 256, (3, 5, 32, 16, 3), dtype=torch.uint8)
    torch.testing.assert_close(program.module()(frames), mstat.load(checkpoint).embed(frames), rtol=0, atol=1e-5)
    metadata = json.loads(extra[METADATA])
    assert metadata["weights"] == "step-000000003"
    assert metadata["start_weights"] == metadata["start_weights_licence"] == "none: trained from scratch"


def test_the_advice_for_another_number_of_processes_can_be_followed(
    made: MakeRun, tiny_config: Path, tmp_path: Path
) -> None:
    """ZeRO-3 of two processes does not go on with one; what the message says instead is done to the letter."""
    folder = made("zero3")
    flags = ["--config", tiny_config, "--run", folder, *SHORT, "--train.steps", 8]
    status, output = run("train", flags, accelerate="zero3", processes=1)
    assert status != 0
    advice = re.search(r"start a new run from its weights \((--run ANOTHER --model.init [^)]*)\)", output)
    assert advice is not None, output
    advised = shlex.split(advice[1].replace("ANOTHER", str(tmp_path / "run")))
    flags = ["--config", tiny_config, *advised, "--train.steps", 1, *NO_SCORES]
    status, output = run("train", flags, accelerate=None)
    assert status == 0, output
    rows = json.loads((tmp_path / "run" / "init.json").read_text())["rows"]
    trained = {f"model.{name}" for name in load_file(folder / "model.safetensors")}
    assert {row["key"] for row in rows if row["action"] == "copied"} == trained


def test_a_resume_needs_no_file_of_model_init(made: MakeRun, tiny_config: Path, tmp_path: Path) -> None:
    """The checkpoint has all weights: the file that the run started from may be gone; a stray file does no harm."""
    start = tmp_path / "start"
    assert export(["--run", str(made("single")), "--checkpoint", "best", "--out", str(start)]) == 0
    folder = tmp_path / "run"
    flags = ["--config", tiny_config, "--run", folder, "--model.init", start, *NO_SCORES]
    status, output = run("train", [*flags, "--train.steps", 1], accelerate=None)
    assert status == 0, output
    for path in start.iterdir():
        path.unlink()
    start.rmdir()
    (folder / "checkpoints" / ".DS_Store").touch()
    (folder / "checkpoints" / "step-000000001" / ".DS_Store").touch()
    status, output = run("train", [*flags, "--train.steps", 2], accelerate=None)
    assert status == 0, output
    assert json.loads((folder / "state.json").read_text())["step"] == 2


def test_a_table_is_printed_although_nothing_can_be_written(made: MakeRun, tmp_path: Path) -> None:
    """The work is not lost where a folder may only be read: a warning before it, the table, then the error; not 0."""
    (tmp_path / "file").touch()
    status, output = run("evaluate", ["--run", made("single"), "--out", tmp_path / "file" / "out"], accelerate=None)
    assert status != 0
    table, error = output.index("I+II+III"), output.index("error: ")
    assert output.index("--out FOLDER writes them elsewhere") < table < error
    assert "Traceback" not in output[:error]
