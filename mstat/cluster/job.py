"""Description of a job: its command, its resources, and the files that belong to it."""

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
MAX_ELEMENTS = 100_000  # of an array; the MaxArraySize of most clusters is lower
LAUNCHED = ("train", "evaluate", "pretrain", "reproduce")  # kinds that `accelerate launch` starts on every node


@dataclass(frozen=True)
class Job:
    """One submission.

    Attributes:
        kind: launch/<kind>.py; `shards` is `python -m shards`, `collect` is mstat.cluster.collect.
        folder: The absolute run folder, or the folder of an array's runs; its job/ holds scripts and logs.
        arguments: The command's arguments, unchanged.
        directory: The folder in which the command is started, which relative paths in `arguments` refer to.
        gpus_per_node: The number of GPUs; 0 for nodes without GPUs.
        processes_per_node: One per GPU on nodes with GPUs.
        cpus_per_process: CPU cores per process.
        time: The time limit, in a format of sbatch.
        sbatch: Further flags of sbatch.
        array: The first and last index of a job array, both included.
        array_limit: The number of elements that may run at once.
        stop_before: Seconds before the time limit at which the run is signalled to save and end.
        requeue_limit: The maximum number of restarts.
        idle_limit: The maximum number of consecutive attempts without a new checkpoint.
        preflight: Run the launch checks before the command.
        zero: The ZeRO stage of DeepSpeed; None is DDP.
        file: The name of the batch script.
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
        """Refuse line breaks, which would inject lines into the script: #SBATCH directives cannot be quoted."""
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
                raise UserError(
                    f"{option}: '{printable(value)}' contains a line break or a control character; rename it"
                )
        for word in self.arguments:
            if breaks_lines(word.replace("\n", "").replace("\t", "")):
                raise UserError(f"after --: '{printable(word)}' contains a control character")
        if self.array is not None and self.array[1] - self.array[0] >= MAX_ELEMENTS:
            raise UserError(f"--array: at most {MAX_ELEMENTS:,} elements")

    @property
    def num_processes(self) -> int:
        """The number of processes on all nodes."""
        return self.nodes * self.processes_per_node

    @property
    def attempts_folder(self) -> str:
        """The folder whose job/ records the attempts of this job or array element, as an expression of the shell."""
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
        """The prefix of a log's name, before the job id; logs lie beside the script."""
        return self.name.replace("/", "-").replace("%", "-")


def _element(kind: str) -> str:
    return "seed-" if kind == "train" else f"{FOLDER}/task-"


def elements(folder: Path, about: Mapping[str, Any]) -> dict[Path, int]:
    """Return the index of each element of an array by its folder, given the content of job.json."""
    first, last = about.get("array") or (0, -1)
    return {folder / f"{_element(about.get('kind', 'train'))}{number}": number for number in range(first, last + 1)}


def collector(job: Job) -> Job | None:
    """Return the job that combines the results of an array's elements; None if the job has no array."""
    if job.array is None:
        return None
    alone = replace(job, array=None, name=f"{job.name}-collect", file=f"{COLLECT}.sh")
    small = replace(alone, nodes=1, gpus_per_node=0, processes_per_node=1, preflight=False, zero=None)
    if job.kind == "shards":
        return replace(small, arguments=(*job.arguments, "--join"))
    if job.kind == "reproduce":
        return alone  # it trains missing runs, and so needs the resources of an element
    return replace(small, kind="collect", arguments=(str(job.folder),), cpus_per_process=1)
