"""MSTAT: a three-stage spatio-temporal transformer for video person re-identification, and its training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # commands print errors themselves

if TYPE_CHECKING:
    from os import PathLike

    from mstat.model import MSTAT


def load(run_or_file: str | PathLike[str]) -> MSTAT:
    """Load a trained model in evaluation mode from a run folder, its model.safetensors, or one of its checkpoints.

    `model.embed(frames)` then returns float32 features of uint8 clips B,T,H,W,3 of any size, also after `half` or
    `bfloat16`.

    Raises:
        UserError: If the weights or the model.json beside them are missing or do not fit each other.
    """
    from mstat.weights.export import load_model  # imports torch, so it waits: `import mstat` alone stays light

    return load_model(run_or_file)
