"""Trackers read back: what they have of a run, of one that goes on, and of one whose tracker fails."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mstat.config import Config, changed
from mstat.config.cli import load_config, override
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.training.tracker_kinds import check_packages, project
from mstat.training.trackers import FILE, Trackers, hyperparameters
from mstat.training.train import train
from tests.conftest import assert_same_losses, metrics

BOTH = ("tensorboard", "mlflow")
Points = list[tuple[int, float]]


def of_tensorboard(folder: Path, name: str = "loss") -> Points:
    """The steps and values of a metric, as TensorBoard shows them."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def mlflow_runs(folder: Path) -> tuple[MlflowClient, list[Run]]:
    """All runs in the database of a run folder, the newest first."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name(project(folder))
    assert experiment is not None
    return client, client.search_runs([experiment.experiment_id])


def of_mlflow(folder: Path, name: str = "loss") -> Points:
    """The same of the newest run in MLflow."""
    client, runs = mlflow_runs(folder)
    return [(metric.step, metric.value) for metric in client.get_metric_history(runs[0].info.run_id, name)]


def write_steps(folder: Path, steps: range, whole: int, loss: float = 1.0) -> None:
    """Append records of steps to a run folder, and leave a complete checkpoint of step `whole`."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": loss * step, "lr": 0.5}) + "\n" for step in steps)
    checkpoint = folder / "checkpoints" / f"step-{whole:09d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text("{}")


def follow(folder: Path, start: int, final: dict[str, Any] | None = None, names: tuple[str, ...] = BOTH) -> None:
    """One start of the run: the trackers get what they may have, and the last step if there is a `final`."""
    config = changed(Config(run=str(folder)), {"train.log_with": names})
    with Trackers(config, names) as trackers:
        trackers.begin(start)
        if final is not None:
            trackers.finish(final)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps that ended without its scores; its newest checkpoint is of step 6."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    folder.mkdir()
    write_steps(folder, range(1, 8), 6)
    (folder / "evaluations.jsonl").write_text(json.dumps({"step": 4, "mAP": 0.25, "mINP": None, "num_ids": 8}) + "\n")
    follow(folder, 0)
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, in a project of the same name."""
    return Path(shutil.copytree(stopped, tmp_path / stopped.parent.name / "run"))


def sent(folder: Path) -> dict[str, int]:
    """The last step that each tracker has, by trackers.json."""
    return {name: entry["sent"] for name, entry in json.loads((folder / FILE).read_text()).items()}


@pytest.mark.parametrize("read", [of_tensorboard, of_mlflow])
def test_a_step_is_sent_when_a_later_checkpoint_is_complete(read: Any, stopped: Path) -> None:
    """Step 6 may still get scores, and step 7 be trained again; null and counts are no scores."""
    assert read(stopped) == [(step, float(step)) for step in range(1, 6)]
    assert read(stopped, "evaluation/mAP") == [(4, 0.25)]
    assert sent(stopped) == {"tensorboard": 5, "mlflow": 5}
    (run,) = mlflow_runs(stopped)[1]
    assert set(run.data.metrics) == {"loss", "lr", "evaluation/mAP"}
    assert run.info.run_name == "run"
    assert run.data.params["train.log_with"] == json.dumps(BOTH)
    assert set(run.data.params) == set(hyperparameters(Config()))


@pytest.mark.parametrize("read", [of_tensorboard, of_mlflow])
def test_no_step_is_doubled_where_trackers_json_is_behind(read: Any, folder: Path) -> None:
    """A kill between sending steps and writing the file leaves it behind. The last step has the final scores."""
    entries = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({name: {**entry, "sent": 2} for name, entry in entries.items()}))
    write_steps(folder, range(8, 11), 10)
    follow(folder, 6, final={"mAP": 0.5})
    assert read(folder) == [(step, float(step)) for step in range(1, 11)]
    assert read(folder, "evaluation/mAP") == [(4, 0.25), (10, 0.5)]
    follow(folder, 10, final={"mAP": 0.5})  # the command again, when all is done
    assert read(folder) == [(step, float(step)) for step in range(1, 11)]
    assert len(mlflow_runs(folder)[1]) == 1


@pytest.mark.parametrize("read", [of_tensorboard, of_mlflow])
def test_a_run_that_goes_back_begins_a_new_run_of_the_tracker(read: Any, folder: Path) -> None:
    """Its newest checkpoint was removed, and the steps after it have other values now."""
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.jsonl").unlink()
    write_steps(folder, range(1, 4), 3, loss=2.0)
    follow(folder, 3, final={})
    assert read(folder) == [(step, 2.0 * step) for step in range(1, 4)]


def test_a_tracker_that_fails_warns_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The other one goes on; the next start sends what the first lacks."""
    (folder / "tensorboard").rename(folder / "aside")
    (folder / "tensorboard").touch()
    write_steps(folder, range(8, 11), 10)
    with caplog.at_level(logging.WARNING, "mstat"):
        follow(folder, 6, final={})
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "mstat"]
    assert warning.startswith("train.log_with tensorboard: FileExistsError: ")
    assert warning.endswith("its next start sends the steps after 5")
    assert sent(folder) == {"tensorboard": 5, "mlflow": 10}
    (folder / "tensorboard").unlink()
    (folder / "aside").rename(folder / "tensorboard")
    follow(folder, 10, final={})
    assert of_tensorboard(folder) == of_mlflow(folder) == [(step, float(step)) for step in range(1, 11)]


def test_a_tracker_that_is_added_gets_all_steps(stopped: Path, tmp_path: Path) -> None:
    """Also those of earlier starts, which had no trackers."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder, ignore=shutil.ignore_patterns("tensorboard", "mlflow", FILE))
    follow(folder, 6, names=("tensorboard",))
    assert of_tensorboard(folder) == [(step, float(step)) for step in range(1, 6)]


def test_mlflow_writes_where_its_variable_says(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLFLOW_TRACKING_URI: all steps are in that database, and nothing is in the run folder."""
    (tmp_path / "server").mkdir()
    (folder / "mlflow").rename(tmp_path / "server" / "mlflow")  # as an empty database would take seconds
    (folder / FILE).unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/server/mlflow/mlflow.db")
    follow(folder, 6, names=("mlflow",))
    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string=f"name = '{project(folder)}'")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert not (folder / "mlflow").exists()


def test_a_damaged_file_of_entries_is_refused(folder: Path) -> None:
    (folder / FILE).write_text('{"mlflow": {"sent": 5}}')
    with pytest.raises(UserError, match=r"trackers.json: mlflow must have `run` and `sent`: remove the file"):
        follow(folder, 6)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that has it."""
    check_packages(BOTH)
    for name, extra in {"wandb": "wandb", "trackio": "trackio"}.items():
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf"train.log_with {name} needs the package {name}: .*mstat\[{extra}\]"):
            check_packages([name])


def test_a_training_with_trackers(tiny_config: Path, tmp_path: Path) -> None:
    """Has the losses of one without, bit for bit; its trackers have its metrics and scores."""
    settings = {"train.steps": "6", "train.save_every": "2", "train.eval_every": "4", "eval.baselines": "false"}
    plain = override(load_config(tiny_config), {**settings, "run": str(tmp_path / "plain")})
    tracked = override(plain, {"run": str(tmp_path / "tracked"), "train.log_with": "[tensorboard, mlflow]"})
    train(plain, Engine(plain))
    final = train(tracked, Engine(tracked))
    assert final is not None
    assert_same_losses(tmp_path / "tracked", tmp_path / "plain", rel=0)
    (of_step_4,) = map(json.loads, (tmp_path / "tracked" / "evaluations.jsonl").read_text().splitlines())
    for read in (of_tensorboard, of_mlflow):
        for name in ("loss", "loss/III/triplet", "clips_per_s"):
            steps, values = zip(*read(tmp_path / "tracked", name), strict=True)
            assert steps == tuple(range(1, 7))
            expected = [record[name] for record in metrics(tmp_path / "tracked")]
            assert values == pytest.approx(expected, rel=1e-6)  # TensorBoard keeps fp32
        scores = dict(read(tmp_path / "tracked", "evaluation/mAP"))
        assert scores == pytest.approx({4: of_step_4["mAP"], 6: final["mAP"]}, rel=1e-6)
    assert not (tmp_path / "plain" / FILE).exists()
