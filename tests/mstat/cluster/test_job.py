"""The description of a job: what cannot stand in a script is refused, and arrays have elements and a collector."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mstat.cluster.job import MAX_ELEMENTS, Job, collector, elements
from mstat.errors import UserError

JOB = Job("train", Path("/runs/mars"), ("--config", "mars.yaml"), Path("/home/reid"), nodes=2, gpus_per_node=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a\n#SBATCH --uid=0"}, r"--name: 'a\\n#SBATCH --uid=0' contains a line break"),
        ({"folder": Path("/runs/a\nb")}, r"--run \(or --out\): "),
        ({"directory": Path("/home/\x1b[2J")}, "the current folder: "),
        ({"partition": "gpu\r"}, "--partition: "),
        ({"account": "a\x00b"}, "--account: "),
        ({"qos": "a\nb"}, "--qos: "),
        ({"time": "1:00\n"}, "--time: "),
        ({"sbatch": ("--exclusive", "--comment=a\nb")}, r"--sbatch \(number 2\): "),
        ({"arguments": ("--run", "a\x1b[2Jb")}, "after --: .* contains a control character"),
        ({"array": (0, MAX_ELEMENTS)}, "--array: at most 100,000 elements"),
    ],
)
def test_what_would_be_another_line_of_the_script_is_refused(changes: dict[str, Any], message: str) -> None:
    """By its option: comments and directives of a batch script cannot be quoted."""
    with pytest.raises(UserError, match=f"^{message}"):
        dataclasses.replace(JOB, **changes)


def test_an_argument_may_have_lines() -> None:
    """The shell quotes it."""
    assert (
        dataclasses.replace(JOB, arguments=("--note", "two\nlines\tand a tab")).arguments[1] == "two\nlines\tand a tab"
    )


def test_names_of_logs_are_names_of_files() -> None:
    """Slurm would take a percent sign for a pattern, and a slash for a folder."""
    assert dataclasses.replace(JOB, name="a/50%j").log == "a-50-j"
    assert JOB.script == Path("/runs/mars/job/job.sh")


def test_the_folder_of_attempts_is_quoted_for_the_shell() -> None:
    """Each element has its own; a folder may contain spaces."""
    job = dataclasses.replace(JOB, folder=Path("/my runs"))
    assert job.attempts_folder == "'/my runs'"
    job = dataclasses.replace(job, array=(0, 3))
    assert job.attempts_folder == "'/my runs'/seed-\"$SLURM_ARRAY_TASK_ID\""
    assert dataclasses.replace(job, kind="shards").attempts_folder == "'/my runs'/job/task-\"$SLURM_ARRAY_TASK_ID\""


def test_elements_of_an_array() -> None:
    """Both bounds are included; a job without an array has none."""
    folder = Path("/runs")
    assert elements(folder, {"array": [4, 6], "kind": "train"}) == {folder / f"seed-{n}": n for n in (4, 5, 6)}
    assert elements(folder, {"array": [1, 2], "kind": "shards"}) == {folder / f"job/task-{n}": n for n in (1, 2)}
    assert elements(folder, {}) == elements(folder, {"array": None}) == {}


def test_who_collects_from_an_array() -> None:
    """The mean of runs takes one core; joining shards repeats the command; a reproduction may train what is missing."""
    assert collector(JOB) is None
    job = dataclasses.replace(JOB, array=(0, 2), zero=2)
    mean = collector(job)
    assert mean is not None
    assert (mean.kind, mean.arguments, mean.array, mean.zero) == ("collect", ("/runs/mars",), None, None)
    assert (mean.num_processes, mean.gpus_per_node, mean.cpus_per_process) == (1, 0, 1)
    assert (mean.attempts_folder, mean.script.name) == ("/runs/mars/job/collect", "collect.sh")
    join = collector(dataclasses.replace(job, kind="shards", arguments=("build", "mars")))
    assert join is not None
    assert (join.kind, join.arguments, join.num_processes) == ("shards", ("build", "mars", "--join"), 1)
    whole = collector(dataclasses.replace(job, kind="reproduce"))
    assert whole is not None
    assert (whole.nodes, whole.gpus_per_node, whole.zero) == (2, 4, 2)
