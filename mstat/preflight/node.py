"""Facts about one node before a run: its code, packages, shards, GPUs, and space in the run folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import shards
from mstat.config import ACTIONS_SHARDS, ALL_SPLITS, Config, DataConfig
from mstat.distributed.agreement import settings_facts
from mstat.distributed.optimizer import states_per_weight
from mstat.preflight.table import human
from mstat.pretraining.task import ActionTask
from mstat.provenance import PROJECT, commit, source_digest, versions
from mstat.training.task import Task
from mstat.training.train import training_sampler
from mstat.weights.checkpoint_files import folders
from shards.read import Reader
from shards.records import DataError

QUERY = ("index", "uuid", "name", "memory.used", "memory.total", "ecc.errors.uncorrected.volatile.total")
SLOWDOWN = ("clocks_event_reasons.hw_slowdown", "clocks_throttle_reasons.hw_slowdown")  # before driver 535
BUSY = 0.05  # fraction of a GPU's memory; a GPU with more in use has another user, the driver takes less
HEADER_BYTES = 300  # what torch.save adds to each tensor, about; it matters for small models only
SECONDS = 20.0  # for nvidia-smi, which hangs if a GPU has fallen off its bus
NOT_BUILT = "not built yet"
DRAWN = (DataConfig.shards, ACTIONS_SHARDS)
MakeTask = Callable[[Config, int], Task | ActionTask]
TASKS: dict[str, MakeTask] = {"train": Task, "pretrain": ActionTask}


@dataclass
class Facts:
    """Facts about a node; all fields are JSON values.

    Attributes:
        source: Digest of the Python files, which distinguishes two checkouts without git.
        shards: The set's checksum; `NOT_BUILT` if training will build the set; None if the set cannot be read.
        settings: The result of mstat.distributed.agreement.settings_facts.
        num_gpus: The number of GPUs that torch can use.
        gpus: The names of the visible GPUs, from nvidia-smi.
        free, needed: Bytes in the run folder.
        faults: Faults of this node alone, each with its remedy.
    """

    host: str = field(default_factory=platform.node)
    commit: str | None = field(default_factory=commit)
    source: str = ""
    versions: dict[str, str] = field(default_factory=versions)
    shards: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    num_gpus: int = 0
    gpus: list[str] = field(default_factory=list)
    free: int | None = None
    needed: int | None = None
    faults: list[tuple[str, str]] = field(default_factory=list)


def gather_facts(config: Config, processes: int, script: str = "train") -> dict[str, Any]:
    """Return the facts about this node, which runs `processes` ranks of launch/<script>.py."""
    facts = Facts(source=source_digest(PROJECT), settings=json.loads(json.dumps(settings_facts(config))))
    facts.versions["CUDA of torch"] = torch.version.cuda or "none"
    _check_gpus(facts, processes)
    reader = _check_shards(facts, config.data)
    resumes = bool(folders(Path(config.run)))  # from a checkpoint, which replaces the weights of model.init
    needs_init = script not in ("evaluate", "robustness") and not resumes
    if needs_init and config.model.init and not Path(config.model.init).exists():
        facts.faults.append((f"model.init: {config.model.init} does not exist", "copy it to this node too"))
    _check_run_folder(facts, config, script, reader)
    return asdict(facts)


def _check_shards(facts: Facts, data: DataConfig) -> Reader | None:
    if data.shards in DRAWN and not Path(data.shards).exists():
        facts.shards = NOT_BUILT
        return None
    try:
        reader = shards.open(data.shards)
    except (DataError, OSError) as error:
        facts.faults.append((f"shards: {error}", "copy or build them here too, under the same path"))
        return None
    facts.shards = reader.checksum
    return reader


# --- GPUs ------------------------------------------------------------------------------------------------------


def _check_gpus(facts: Facts, processes: int) -> None:
    facts.num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    text = _nvidia_smi()
    if text is not None:
        facts.gpus, faults = read_nvidia_smi(text, os.environ.get("CUDA_VISIBLE_DEVICES"))
        facts.faults += faults
        if not facts.num_gpus and facts.gpus:
            facts.faults.append(
                (
                    "nvidia-smi lists GPUs that torch cannot use",
                    "update the driver for torch's CUDA version, or install a torch build with CUDA",
                )
            )
    if 0 < facts.num_gpus < processes:
        facts.faults.append((f"{facts.num_gpus} GPUs for {processes} processes", "start one process per GPU"))


def _nvidia_smi() -> str | None:
    """Return nvidia-smi's lines for `QUERY` and the hardware slowdown; None if nvidia-smi is missing or fails."""
    for slowdown in SLOWDOWN:
        command = ["nvidia-smi", f"--query-gpu={','.join((*QUERY, slowdown))}", "--format=csv,noheader,nounits"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
        except subprocess.CalledProcessError:
            continue
        except (OSError, subprocess.TimeoutExpired):
            break
    return None


def read_nvidia_smi(text: str, visible: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Parse nvidia-smi's lines.

    Args:
        visible: `CUDA_VISIBLE_DEVICES`: numbers or UUIDs. nvidia-smi itself ignores this variable.

    Returns:
        The name of each visible GPU, and the faults with their remedies.
    """
    names, faults = [], []
    for line in text.splitlines():
        number, uuid, name, used, total, errors, slowed = (part.strip() for part in line.split(","))
        if visible is not None and not _is_visible(number, uuid, visible):
            continue
        names.append(name)
        if used.isdecimal() and total.isdecimal() and int(used) > BUSY * int(total):
            faults.append(
                (
                    f"GPU {number}: {int(used):,} of {int(total):,} MiB in use before the run",
                    "find the process with `nvidia-smi` there",
                )
            )
        if errors.isdecimal() and int(errors):
            faults.append(
                (f"GPU {number}: {errors} uncorrected memory errors (ECC)", "exclude the node; have the GPU reset")
            )
        if slowed == "Active":
            faults.append(
                (f"GPU {number}: slowed by its hardware (heat or power)", "exclude the node; have the GPU inspected")
            )
    return names, faults


def _is_visible(number: str, uuid: str, visible: str) -> bool:
    listed = [entry.strip() for entry in visible.split(",") if entry.strip()]
    # A MIG partition has its own UUID, which nvidia-smi does not list here: then all GPUs count.
    return any(entry.startswith("MIG") or entry == number or uuid.startswith(entry) for entry in listed)


# --- the run folder --------------------------------------------------------------------------------------------


def _check_run_folder(facts: Facts, config: Config, script: str, reader: Reader | None) -> None:
    run = Path(config.run)
    existing = next(folder for folder in (run, *run.absolute().parents) if folder.is_dir())
    if not os.access(existing, os.W_OK):
        facts.faults.append((f"run folder: {existing} is not writable", "choose another --run, or change permissions"))
    facts.free = shutil.disk_usage(existing).free
    if reader is None or script not in TASKS:  # an evaluation writes little; the size of an experiment is unknown
        return
    splits = len(reader.protocol(config.data.protocol).splits) if config.data.split == ALL_SPLITS else 1
    held = [path for path in run.glob("**/checkpoints/step-*/**/*") if path.is_file()] if run.is_dir() else []
    try:
        facts.needed = max(
            0, splits * space_needed(config, reader, TASKS[script]) - sum(path.stat().st_size for path in held)
        )
    except ValueError as error:  # training refuses these settings with the same message
        facts.faults.append((str(error), "change the settings"))
        return
    if facts.free < facts.needed:
        what = f"run folder: {human(facts.free)} free in {existing}, checkpoints need up to {human(facts.needed)} more"
        remedy = "free some space, keep fewer checkpoints (--train.keep 1), or choose another --run"
        facts.faults.append((what, remedy))


def space_needed(config: Config, reader: Reader, make: MakeTask = Task) -> int:
    """Return the maximum number of bytes that a run has on the disk at once.

    They hold `train.keep` checkpoints, the best one with `train.keep_best`, one that is being written, and the weights.
    """
    if config.data.split == ALL_SPLITS:
        first = reader.protocol(config.data.protocol).splits[0]
        config = Config(**{**vars(config), "data": DataConfig(**{**vars(config.data), "split": first})})
    weights, each = checkpoint_bytes(config, len(training_sampler(reader, config).pids), make)
    return (config.train.keep + config.train.keep_best + 1) * each + weights


def checkpoint_bytes(config: Config, num_classes: int, make: MakeTask = Task) -> tuple[int, int]:
    """Return the bytes of the task's weights, and of a checkpoint: fp32 weights, their average, optimiser states."""
    with torch.device("meta"):
        task = make(config, num_classes)
    parameters = sum(4 * parameter.numel() for parameter in task.parameters())
    weights = parameters + sum(buffer.nbytes for buffer in task.buffers())
    states = states_per_weight(config.optim)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        states += 2  # ZeRO's fp32 copy, and the whole weights beside their partitions
    copies = 1 if config.train.ema is None else 2
    stored = copies * len(task.state_dict()) + (states + 1) * len(list(task.parameters()))
    return weights, copies * weights + states * parameters + HEADER_BYTES * stored
