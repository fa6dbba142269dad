"""Facts of one node before a run: its code, packages, shards, GPUs, and room in the run folder."""

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
BUSY = 0.05  # of a GPU's memory, in use before we begin; the driver itself takes less
HEADER_BYTES = 300  # about what torch.save adds to each tensor, which only counts for small models
SECONDS = 20.0  # for nvidia-smi, which hangs where a GPU has fallen off its bus
NOT_BUILT = "not built yet"
DRAWN = (DataConfig.shards, ACTIONS_SHARDS)
MakeTask = Callable[[Config, int], Task | ActionTask]
TASKS: dict[str, MakeTask] = {"train": Task, "pretrain": ActionTask}


@dataclass
class Facts:
    """JSON values all.

    Attributes:
        source: Digest of the Python files, which tells two trees apart even where git is not at hand.
        shards: The set's checksum; `NOT_BUILT` where training will make the set; None where it cannot be read.
        settings: What mstat.distributed.agreement.settings_facts gives.
        num_gpus: That torch may use here.
        gpus: What nvidia-smi says of each, for the table.
        free, needed: Bytes in the run folder.
        faults: What is wrong with this node by itself, and the way out.
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
    """The facts of this node, on which `processes` ranks of launch/<script>.py live."""
    facts = Facts(source=source_digest(PROJECT), settings=json.loads(json.dumps(settings_facts(config))))
    facts.versions["CUDA of torch"] = torch.version.cuda or "none"
    _look_at_gpus(facts, processes)
    reader = _look_at_shards(facts, config.data)
    going_on = bool(folders(Path(config.run)))  # a checkpoint has all weights, those of model.init too
    needs_init = script not in ("evaluate", "robustness") and not going_on
    if needs_init and config.model.init and not Path(config.model.init).exists():
        facts.faults.append((f"model.init: {config.model.init} is not there", "copy it to this node, too"))
    _look_at_run(facts, config, script, reader)
    return asdict(facts)


def _look_at_shards(facts: Facts, data: DataConfig) -> Reader | None:
    if data.shards in DRAWN and not Path(data.shards).exists():
        facts.shards = NOT_BUILT
        return None
    try:
        reader = shards.open(data.shards)
    except (DataError, OSError) as error:
        facts.faults.append((f"shards: {error}", "copy or build them here, too, under the same path"))
        return None
    facts.shards = reader.checksum
    return reader


# --- GPUs ------------------------------------------------------------------------------------------------------


def _look_at_gpus(facts: Facts, processes: int) -> None:
    facts.num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    text = _nvidia_smi()
    if text is not None:
        facts.gpus, faults = read_nvidia_smi(text, os.environ.get("CUDA_VISIBLE_DEVICES"))
        facts.faults += faults
        if not facts.num_gpus and facts.gpus:
            facts.faults.append(
                (
                    "nvidia-smi lists GPUs that torch cannot use",
                    "the driver may be too old for torch's CUDA, or torch a CPU build",
                )
            )
    if 0 < facts.num_gpus < processes:
        facts.faults.append(
            (f"{facts.num_gpus} GPUs for {processes} processes", "start as many processes a node as there are GPUs")
        )


def _nvidia_smi() -> str | None:
    """nvidia-smi's lines for `QUERY` and whether the hardware slows the clocks; None where it cannot be asked."""
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
    """A short text for each GPU that is visible, and the faults with their ways out.

    Args:
        visible: `CUDA_VISIBLE_DEVICES`: numbers or UUIDs; nvidia-smi itself does not look at it.
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
                    f"GPU {number}: {int(used):,} of {int(total):,} MiB in use before we begin",
                    "`nvidia-smi` there shows by whom",
                )
            )
        if errors.isdecimal() and int(errors):
            faults.append(
                (f"GPU {number}: {errors} uncorrected memory errors (ECC)", "leave the node out; have it reset")
            )
        if slowed == "Active":
            faults.append(
                (f"GPU {number}: slowed by its hardware (heat or power)", "leave the node out; have it looked at")
            )
    return names, faults


def _is_visible(number: str, uuid: str, visible: str) -> bool:
    listed = [entry.strip() for entry in visible.split(",") if entry.strip()]
    # A part of a GPU (MIG) has a UUID of its own, which this list does not have: then all are shown.
    return any(entry.startswith("MIG") or entry == number or uuid.startswith(entry) for entry in listed)


# --- the run folder --------------------------------------------------------------------------------------------


def _look_at_run(facts: Facts, config: Config, script: str, reader: Reader | None) -> None:
    run = Path(config.run)
    there = next(folder for folder in (run, *run.absolute().parents) if folder.is_dir())
    if not os.access(there, os.W_OK):
        facts.faults.append((f"run folder: {there} cannot be written to", "another --run, or the rights to this one"))
    facts.free = shutil.disk_usage(there).free
    if reader is None or script not in TASKS:  # an evaluation writes little, an experiment many runs
        return
    splits = len(reader.protocol(config.data.protocol).splits) if config.data.split == ALL_SPLITS else 1
    held = [path for path in run.glob("**/checkpoints/step-*/**/*") if path.is_file()] if run.is_dir() else []
    try:
        facts.needed = max(
            0, splits * room_needed(config, reader, TASKS[script]) - sum(path.stat().st_size for path in held)
        )
    except ValueError as error:  # training would refuse these settings by the same words
        facts.faults.append((str(error), "other settings"))
        return
    if facts.free < facts.needed:
        what = f"run folder: {human(facts.free)} free in {there}, checkpoints take up to {human(facts.needed)} more"
        facts.faults.append((what, "make room, keep fewer (--train.keep 1), or take another --run"))


def room_needed(config: Config, reader: Reader, make: MakeTask = Task) -> int:
    """Return the most bytes that a run has on the disk at once.

    These are `train.keep` checkpoints, the best one with `train.keep_best`, one in the making, and the weights.
    """
    if config.data.split == ALL_SPLITS:
        first = reader.protocol(config.data.protocol).splits[0]
        config = Config(**{**vars(config), "data": DataConfig(**{**vars(config.data), "split": first})})
    weights, each = checkpoint_bytes(config, len(training_sampler(reader, config).pids), make)
    return (config.train.keep + config.train.keep_best + 1) * each + weights


def checkpoint_bytes(config: Config, num_classes: int, make: MakeTask = Task) -> tuple[int, int]:
    """Bytes of the task's weights, and of a checkpoint: fp32 weights and what the optimiser keeps of each."""
    with torch.device("meta"):
        task = make(config, num_classes)
    parameters = sum(4 * parameter.numel() for parameter in task.parameters())
    weights = parameters + sum(buffer.nbytes for buffer in task.buffers())
    kept = 2 if config.optim.name == "adamw" else int(config.optim.momentum > 0)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        kept += 2  # ZeRO's own fp32 copy, and the whole weights beside its parts
    stored = len(task.state_dict()) + (kept + 1) * len(list(task.parameters()))
    return weights, weights + kept * parameters + HEADER_BYTES * stored
