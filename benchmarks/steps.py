"""Training steps on random frames, for the benchmarks of growth, ZeRO memory and load."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mstat.config import Config
from mstat.distributed.engine import Engine
from mstat.distributed.gather import slice_bounds
from mstat.model.randomness import draw_noise
from mstat.training.task import Task


def prepare(config: Config, num_classes: int, threads: int) -> tuple[Engine, Callable[[], object]]:
    """Return an engine that holds a new task, and its whole training step: forward, losses, backward, update."""
    engine = Engine(config)
    torch.set_num_threads(threads)  # the engine takes all cores
    torch.manual_seed(0)
    engine.prepare(Task(config, num_classes))
    batch = drawn_batch(config, engine)
    return engine, lambda: engine.update(engine.losses(batch, 1.0)["loss"], 1e-5)


def drawn_batch(config: Config, engine: Engine) -> dict[str, torch.Tensor]:
    """Return this rank's part of a batch of random frames, whose content does not affect the cost."""
    labels_n = torch.arange(config.batch.num_identities).repeat_interleave(config.batch.num_tracklets)
    start, stop = slice_bounds(len(labels_n), engine.world_size, engine.rank)
    shape = (stop - start, config.clip.num_frames, *config.model.image_size, 3)
    noise = [draw_noise(np.random.default_rng(i), config.model, config.clip.num_frames) for i in range(start, stop)]
    tps_BTN, keep_BR = (torch.from_numpy(np.stack(parts)) for parts in zip(*noise, strict=True))
    frames_BTHWC = torch.randint(0, 256, shape, dtype=torch.uint8)
    return {"frames_BTHWC": frames_BTHWC, "tps_BTN": tps_BTN, "keep_BR": keep_BR, "labels_n": labels_n}
