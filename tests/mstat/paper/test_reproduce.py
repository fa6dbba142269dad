"""The paper's experiments as settings, and their tables out of finished runs."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from mstat.config import Config
from mstat.config.cli import load_config, override, save_config
from mstat.paper.experiments import EXPERIMENTS, QUICK, Experiment, Row
from mstat.paper.reproduce import differences, jobs, results, tables, write_results
from mstat.runs.folder import write_state
from mstat.training.task import Task

ROWS = {f"{name}: {row.name}": row for name, experiment in EXPERIMENTS.items() for row in experiment.rows}
SHAPE = {
    "model.image_size": "[32, 16]",
    "model.patch_size": "8",
    "model.width": "48",
    "model.num_heads": "2",
    "model.depths": "[2, 1, 1]",
    "clip.num_frames": "2",
}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_every_row_trains(row: Row) -> None:
    """Every row is a configuration whose model takes a training step, with a gradient for every trained weight."""
    small = override(Config(), SHAPE)
    config = override(small, row.settings_for(small.model))
    torch.manual_seed(0)
    task = Task(config, 3)
    for block in task.model.stage3.blocks if task.model.stage3 else []:
        torch.nn.init.constant_(block.get_parameter("alpha"), 0.5)
    frames = torch.randint(0, 256, (6, config.clip.num_frames, 32, 16, 3)).to(torch.uint8)
    losses = task(frames, None, None, torch.tensor([0, 0, 1, 1, 2, 2]), 1.0)
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters())
    subsets = {"+".join(config.model.stages)} | set(config.model.stages) | {"I+II", "I+III", "II+III", ""}
    assert row.stages in subsets


def test_the_papers_own_figures() -> None:
    """As ../shared/notes/model.md has them: the full model is the same row wherever it appears on MARS."""
    on_mars = {"rank1": 91.8, "rank5": 97.4, "mAP": 85.3}
    for name, place in {"table2": -1, "table3": -1, "table4": 1, "fig7": 3, "fig8": 3, "fig9": 3}.items():
        assert EXPERIMENTS[name].rows[place].paper == on_mars, name
        config = override(Config(), EXPERIMENTS[name].rows[place].settings_for(Config().model))
        assert differences(Config(), config) == {}, f"{name}: the paper's model is the default"
    assert EXPERIMENTS["table6"].rows[0].settings_for(Config().model)["model.depths"] == "[12, 0, 0]"


def test_rows_of_equal_settings_share_their_runs(tmp_path: Path) -> None:
    """The full model of all tables on MARS is one run a seed; seeds count from the config's; each row has its own."""
    config = override(Config(seed=7), SHAPE)
    folders: dict[str, set[str]] = {}
    for name, experiment in EXPERIMENTS.items():
        for job in jobs(experiment, config, tmp_path, 2):
            folders.setdefault(job.config.run, set()).add(name)
            assert job.config.run.endswith(f"seed-{job.config.seed}")
    whole = {run for run, names in folders.items() if "table3" in names and "table4" in names}
    assert whole == {str(tmp_path / "runs" / "mstat" / f"seed-{seed}") for seed in (7, 8)}
    assert folders[str(tmp_path / "runs" / "model.iap=none" / "seed-7")] == {"table3"}
    assert len(jobs(EXPERIMENTS["table2"], config, tmp_path, 2)) == 14  # of which two are different
    assert all(re.fullmatch(r"[\w./,=+-]+", run.removeprefix(str(tmp_path))) for run in folders)


def finish(config: Config, **scores: Any) -> None:
    """A run as training leaves it."""
    run = Path(config.run)
    run.mkdir(parents=True)
    save_config(config, run / "config.yaml")
    write_state(run, "done", 20)
    evaluation = {"protocol": "official", "split": "0", "warnings": ["part"], "stages": {}, "distances": {}, **scores}
    (run / "evaluation.json").write_text(json.dumps(evaluation))


EXPERIMENT = Experiment(
    "Table X: one and two",
    "MARS",
    ("rank1", "mAP", "cosine/intra", "euclidean/intra"),
    (Row("one", {}, {"rank1": 90.0}), Row("two | half", {"model.iap": "none"}), Row("Stage I", stages="I")),
    plotted="number",
    remark="A remark.",
)


def scored(rank1: float, intra: float) -> dict[str, Any]:
    of_stage = {"rank1": rank1 / 2, "mAP": None}
    distances = {"cosine": {"intra": intra}, "euclidean": {"intra": intra + 1}}
    return {"rank1": rank1, "mAP": 0.5, "stages": {"I": of_stage}, "distances": distances}


@pytest.fixture
def done(tmp_path: Path) -> dict[str, Any]:
    """Results of three seeds."""
    of_jobs = jobs(EXPERIMENT, Config(), tmp_path, 3)
    for job in of_jobs[:6]:
        assert not job.is_done()
        finish(job.config, **scored((10 + 2 * job.config.seed) / 20, 0.25))
        assert job.is_done()
    return results("tablex", EXPERIMENT, of_jobs)


def test_results_are_means_over_seeds(done: dict[str, Any]) -> None:
    """Scores in percent with the deviation of a sample; a subset of stages has its own; what is missing is None."""
    one, _, stage = done["rows"]
    assert one["ours"]["rank1"] == {"mean": pytest.approx(60), "sd": pytest.approx(10), "values": [50.0, 60.0, 70.0]}
    assert one["ours"]["cosine/intra"]["mean"] == 0.25
    assert one["paper"] == {"rank1": 90.0}
    assert stage["ours"]["rank1"]["mean"] == pytest.approx(30)
    assert stage["ours"]["mAP"] == {"mean": None, "sd": None, "values": [None] * 3}
    assert stage["runs"] == one["runs"]
    assert done["seeds"] == [0, 1, 2]


def test_the_papers_row_stands_beside_ours(done: dict[str, Any]) -> None:
    """On a terminal of 80 columns: ours in a line of its own, the paper's below where it has one, one table a kind of
    distance, and what speaks against comparing."""
    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables(done):
        console.print(table)
    text = " ".join(console.export_text().split())
    assert text.count("60.0 ± 10.0") == 4  # rows of equal scores, in two tables
    assert text.count("paper, MARS") == 2
    assert "(cosine distance)" in text
    assert "(euclidean distance)" in text
    assert "Not comparable" in text
    assert "1.2500 ± 0.0000" in text


def test_files_of_an_experiment(done: dict[str, Any], tmp_path: Path) -> None:
    """JSON that reads back, Markdown, and the plot as SVG."""
    paths = write_results(tmp_path, EXPERIMENT, done)
    assert [path.name for path in paths] == ["tablex.json", "tablex.md", "tablex.svg"]
    assert json.loads(paths[0].read_text()) == done
    text = paths[1].read_text()
    assert "| one | **0.2500 ± 0.0000** | **60.0 ± 10.0** | **50.0 ± 0.0** |\n| *paper, MARS* | – | 90.0 | – |" in text
    assert r"| two \| half |" in text
    assert b"<svg" in paths[2].read_bytes()


def test_a_run_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    """Neither as done nor to go on from: the message names the settings and the way out."""
    job = jobs(EXPERIMENT, Config(), tmp_path, 1)[0]
    finish(dataclasses.replace(job.config, optim=dataclasses.replace(job.config.optim, lr=1.0)), **scored(0.5, 0.5))
    with pytest.raises(ValueError, match=r"made with other values of optim\.lr: give another --out"):
        job.is_done()


def test_override_reads_what_a_command_line_reads(tmp_path: Path) -> None:
    """The same settings as flags give; unknown and impossible ones are refused."""
    path = tmp_path / "config.yaml"
    save_config(Config(), path)
    rows = [EXPERIMENTS[name].rows[0].settings_for(Config().model) for name in ("table3", "table4", "table6")]
    for settings in (QUICK, SHAPE, *rows):
        flags = [f"--{key}={value}" for key, value in settings.items()]
        assert override(Config(), settings) == load_config(path, flags)
    with pytest.raises(ValueError, match=r"model\.iaps.*did you mean 'model\.iap'"):
        override(Config(), {"model.iaps": "none"})
    with pytest.raises(ValueError, match=r"clip\.num_frames is 0"):
        override(Config(), {"clip.num_frames": "0"})
