"""The description of a job, from which a script is written: its command and its resources."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mstat.cluster.restarts import FOLDER
from mstat.errors import UserError
from shards.text import breaks_lines, printable

Kind = Literal["train", "evaluate", "pretrain", "reproduce", "shards", "collect"]
COLLECT = "collect"
MAX_ELEMENTS = 100_000  # of an array; Slurm's own limit (MaxArraySize) is lower almost everywhere
LAUNCHED = ("train", "evaluate", "pretrain", "reproduce")  # by `accelerate launch`, on every node


@dataclass(frozen=True)
class Job:
    """One submission.

    Attributes:
        kind: launch/<kind>.py; `shards` is `python -m shards`, `collect` the mean over the runs of an array.
        folder: The run folder (of an array, the folder of its runs): scripts and logs lie in its job/. Absolute.
        arguments: What the command gets, untouched.
        directory: Where the command is started: relative paths in the arguments are meant from there.
        gpus_per_node: 0 is for nodes without GPUs.
        processes_per_node: One for each GPU, where there are any.
        cpus_per_process: CPU cores of each.
        time: Limit, as sbatch takes it.
        sbatch: More flags of sbatch.
        array: (first, last) index of a job array, both included.
        array_limit: Elements that may run at once.
        stop_before: Seconds before the time limit at which the run is told to save and end.
        requeue_limit: How often a job may be started again.
        idle_limit: Attempts in a row without a new checkpoint, after which it is given up.
        preflight: Check all nodes before a training.
        zero: DeepSpeed's stage; null is DDP.
        file: Name of the batch script.
    """

    kind: Kind
    folder: Path
    arguments: tuple[str, ...]
    directory: Path
    name: str = "mstat"
    nodes: int = 1
    gpus_per_node: int = 8
    processes_per_node: int = 8
    cpus_per_process: int = 8
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    sbatch: tuple[str, ...] = field(default=())
    array: tuple[int, int] | None = None
    array_limit: int | None = None
    stop_before: int = 300
    requeue_limit: int = 20
    idle_limit: int = 3
    preflight: bool = True
    zero: int | None = None
    file: str = "job.sh"

    def __post_init__(self) -> None:
        """Refuse what would become another line of a script: #SBATCH directives and comments cannot be quoted."""
        names = {
            "--run (or --out)": str(self.folder),
            "the current folder": str(self.directory),
            "--name": self.name,
            "--time": self.time,
            "--partition": self.partition or "",
            "--account": self.account or "",
            "--qos": self.qos or "",
            **{f"--sbatch (number {i})": flag for i, flag in enumerate(self.sbatch, start=1)},
        }
        for option, value in names.items():
            if breaks_lines(value):
                raise UserError(f"{option}: '{printable(value)}' has a line break or a control character; rename it")
        for word in self.arguments:
            if breaks_lines(word.replace("\n", "").replace("\t", "")):
                raise UserError(f"after --: '{printable(word)}' has a control character")
        if self.array is not None and self.array[1] - self.array[0] >= MAX_ELEMENTS:
            raise UserError(f"--array: {MAX_ELEMENTS:,} elements at most")

    @property
    def num_processes(self) -> int:
        """The number of processes on all nodes."""
        return self.nodes * self.processes_per_node

    @property
    def account_of(self) -> str:
        """The folder of an element's attempts, in the words of the shell."""
        if self.file == f"{COLLECT}.sh":
            return f"{shlex.quote(str(self.folder))}/{FOLDER}/{COLLECT}"
        if self.array is None:
            return shlex.quote(str(self.folder))
        return f'{shlex.quote(str(self.folder))}/{_element(self.kind)}"$SLURM_ARRAY_TASK_ID"'

    @property
    def script(self) -> Path:
        """The path of the batch script."""
        return self.folder / FOLDER / self.file

    @property
    def log(self) -> str:
        """The beginning of a log's name, before the job's number; logs lie beside the script."""
        return self.name.replace("/", "-").replace("%", "-")


def _element(kind: str) -> str:
    return "seed-" if kind == "train" else f"{FOLDER}/task-"


def elements(folder: Path, about: Mapping[str, Any]) -> dict[Path, int]:
    """Return the folder and index of each element of an array, given the content of job.json."""
    first, last = about.get("array") or (0, -1)
    return {folder / f"{_element(about.get('kind', 'train'))}{number}": number for number in range(first, last + 1)}


def collector(job: Job) -> Job | None:
    """The job that puts together what the elements of an array have made; None where there is no array."""
    if job.array is None:
        return None
    alone = replace(job, array=None, name=f"{job.name}-collect", file=f"{COLLECT}.sh")
    small = replace(alone, nodes=1, gpus_per_node=0, processes_per_node=1, preflight=False, zero=None)
    if job.kind == "shards":
        return replace(small, arguments=(*job.arguments, "--join"))
    if job.kind == "reproduce":
        return alone  # what is missing it trains, so it is as large as the others
    return replace(small, kind="collect", arguments=(str(job.folder),), cpus_per_process=1)
