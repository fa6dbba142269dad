"""DeepSpeed: its whole configuration, and every use of its private interface.

If a new version breaks one of these uses, `tests/mstat/distributed/test_foreign_api.py` names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from mstat.config import Config

REDUCE_BUCKET = 25_000_000  # numbers; DeepSpeed's default of 500 million takes 2 GB of memory


def configuration(stage: int, config: Config) -> dict[str, Any]:
    """Return a whole DeepSpeed configuration: the defaults of a partial one differ from Accelerate's flags.

    DeepSpeed clips at 1.0 unless the configuration itself holds a 0. `train_micro_batch_size_per_gpu` must be a number
    because the loader is not prepared.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.clip_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": REDUCE_BUCKET,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        # fp32 weights under autocast, as under DDP; DeepSpeed's own `bf16` section keeps the weights in bf16.
        "torch_autocast": {"enabled": config.train.precision == "bf16", "dtype": "bfloat16"},
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "steps_per_print": 1 << 30,
    }


def use_cpu() -> None:
    """Choose DeepSpeed's CPU accelerator, without its shared-memory collectives.

    Their compilation takes a minute at the first start. If that start is killed, it leaves a lock on which every later
    start waits for ever. gloo replaces them.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def collecting(engine: Any, copy: Callable[[Any], Any]) -> Iterator[list[tuple[Path, Any]]]:
    """Make DeepSpeed's `save_checkpoint` write nothing; the list receives each file's path and copied content.

    Args:
        engine: DeepSpeed's engine, whose checkpoint engine is restored on exit.
        copy: Function that copies a state dict, because the next training step changes it.
    """
    files: list[tuple[Path, Any]] = []
    writer = engine.checkpoint_engine
    replaced: dict[str, Callable[..., Any]] = {
        "save": lambda state_dict, path: files.append((Path(path), copy(state_dict))),
        "preserves_storage_sharing": lambda: False,  # otherwise DeepSpeed also copies the weights
    }
    for name, function in replaced.items():
        setattr(writer, name, function)
    try:
        yield files
    finally:
        for name in replaced:
            delattr(writer, name)  # uncovers the methods of the class


def release(engine: Any) -> None:
    """Make ZeRO-3 free the whole weights that it keeps, so that their next use gathers the parts of all ranks.

    DeepSpeed does this before it saves. No rank waits for another.
    """
    engine.optimizer.checkpoint_event_prologue()


def gathered(module: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which ZeRO-3's weights of `module` are whole; on exit, each rank takes its part of them.

    All ranks enter it, and must make the same changes.
    """
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(module.parameters(), modifier_rank=0)
    return context
