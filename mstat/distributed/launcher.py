"""Checks of the environment variables that a launcher has set, or that an earlier launch has left behind.

Accelerate passes its YAML and flags on in variables. Variables that ask for training that mstat/distributed/engine.py
does not do are refused by name. Incomplete sets of variables are refused too: with them, a process would wait for
others that never come.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mstat.config import Config
from mstat.errors import UserError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # required to form a process group
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
MPI_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
OTHER_KINDS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}
OFFLOADS = ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE")
UNSET = ("", "no", "none", "auto")


def check_launcher(config: Config, grouped: bool = False) -> list[str]:
    """Return a sentence for each request of the launcher that is ignored without changing a number.

    Remove variables that Accelerate would follow and mstat does not: those of MPI, and the local rank of a single
    process.

    Args:
        grouped: Whether the process group exists already.

    Raises:
        UserError: If the environment requests something unsupported, or belongs to another launch.
    """
    if not grouped:  # an existing group needs no addresses
        _check_processes()
    for name, kind in OTHER_KINDS.items():
        if is_on(name):
            raise UserError(
                f"the launcher selects {kind} ({name} is true), which mstat does not support: launch with "
                "configs/accelerate/ddp.yaml, or zero3.yaml to split weights over processes"
            )
    if _value("ACCELERATE_DYNAMO_BACKEND") not in UNSET:
        raise UserError(
            f"the launcher compiles the model (dynamo_backend {_value('ACCELERATE_DYNAMO_BACKEND')}), and "
            f"train.compile is {str(config.train.compile).lower()}: remove dynamo from the Accelerate YAML and flags "
            "(ACCELERATE_DYNAMO_BACKEND), and set --train.compile true to compile"
        )
    if is_on("ACCELERATE_USE_DEEPSPEED"):
        _check_deepspeed()
    return list(_unused(config))


def _check_processes() -> None:
    """Refuse incomplete or contradictory variables."""
    numbers = {name: _number(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", *MPI_SIZES)}
    world_size, rank = numbers["WORLD_SIZE"], numbers["RANK"]
    way_out = "left over from another launch? `unset` it to start one process, or start with `accelerate launch`"
    if world_size is not None and world_size < 1:
        raise UserError(f"WORLD_SIZE is {world_size} in the environment: {way_out}")
    several = world_size is not None and world_size > 1
    if several or is_on("ACCELERATE_USE_DEEPSPEED"):
        name = "WORLD_SIZE" if several else "ACCELERATE_USE_DEEPSPEED"
        if missing := [needed for needed in NEEDED if not os.environ.get(needed)]:
            raise UserError(
                f"{name} is {os.environ[name]} in the environment, but there is no {', '.join(missing)}: {way_out}"
            )
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise UserError(f"RANK is {rank} and WORLD_SIZE {world_size} in the environment: {way_out}")
    else:
        os.environ.pop("LOCAL_RANK", None)  # Accelerate would look for other processes
    if world_size is None:
        for name in MPI_SIZES:
            if (numbers[name] or 1) > 1:
                raise UserError(
                    f"{name} is {numbers[name]} in the environment, as if MPI or srun had started as many processes, "
                    f"which would all train the same run: {way_out}"
                )
    for name in (*MPI_SIZES, *MPI_RANKS):
        os.environ.pop(name, None)  # Accelerate on CPUs would take them for WORLD_SIZE and RANK


def _check_deepspeed() -> None:
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file not in UNSET:
        raise UserError(
            f"the launcher gives a DeepSpeed configuration ({file}), but mstat makes its own "
            "(mstat/distributed/deepspeed.py); set zero_stage instead, as configs/accelerate/zero2.yaml does"
        )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("0", "1", "2", "3"):
        raise UserError(f"the launcher's zero_stage is {stage}; it must be 0, 1, 2 or 3")


def _unused(config: Config) -> Iterator[str]:
    accumulation = os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "").strip().lower()
    if accumulation not in (*UNSET, "1"):
        yield (
            f"the launcher's gradient_accumulation_steps {accumulation} is not used: a step takes the whole batch of "
            "batch.*; to embed it in parts, set --batch.chunk_size"
        )
    precision = _value("ACCELERATE_MIXED_PRECISION")
    if precision not in (*UNSET, config.train.precision):
        yield f"the launcher's mixed_precision {precision} is not used: train.precision is {config.train.precision}"
    clipping, limit = _value("ACCELERATE_GRADIENT_CLIPPING"), config.optim.clip_grad_norm
    if clipping not in UNSET and _float(clipping) != limit:
        of_run = "null" if limit is None else limit
        yield f"the launcher's gradient_clipping {clipping} is not used: optim.clip_grad_norm is {of_run}"
    for name in OFFLOADS:
        if _value(name) not in UNSET:
            setting = name.removeprefix("ACCELERATE_DEEPSPEED_").lower()
            yield f"the launcher's {setting} {_value(name)} is not used: nothing is offloaded"


def is_on(name: str) -> bool:
    """Return whether a variable is true, as Accelerate reads it."""
    return _value(name) in ("1", "true", "yes", "on", "y", "t")


def _value(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _number(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    try:
        return int(text) if text else None
    except ValueError:
        raise UserError(f"{name} is {text!r} in the environment, but must be a whole number: `unset` it") from None
