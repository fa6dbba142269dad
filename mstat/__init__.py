"""MSTAT: a three-stage spatio-temporal transformer for video person re-identification, and its training."""

from __future__ import annotations

import logging
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load", "save_pretrained"]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # commands print errors themselves

if TYPE_CHECKING:
    from os import PathLike

    from mstat.model import MSTAT


def load(run_or_file: str | PathLike[str]) -> MSTAT:
    """Load a trained model in evaluation mode.

    Args:
        run_or_file: A run folder, its model.safetensors, one of its checkpoints, a folder of `save_pretrained`, or a
            repository on the Hugging Face Hub: `org/name` or `hf://org/name`, with `@revision` or without.

    `model.embed(frames)` then returns float32 features of uint8 clips B,T,H,W,3 of any size, also after `half` or
    `bfloat16`.

    Raises:
        UserError: If the weights or the model.json beside them are missing or do not fit each other, or the Hub does
            not have them.
    """
    from mstat.weights.export import load_model  # imports torch, so it waits: `import mstat` alone stays light

    return load_model(run_or_file)


def save_pretrained(
    run: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    checkpoint: str | None = None,
    licence: str | None = None,
    init_licence: str | None = None,
) -> None:
    """Write the model of a run as a folder in the layout of the Hugging Face Hub, with a model card.

    Args:
        run: Run folder.
        folder: Folder to make; it may exist if it is empty.
        checkpoint: Name of a checkpoint; None is the finished model, or the newest checkpoint.
        licence: Identifier of the licence of the weights, such as `apache-2.0`; None states none.
        init_licence: Licence of the start weights (`model.init`); None says that it is unknown.

    Raises:
        UserError: If the run has no model, or `folder` holds other files.
    """
    from mstat.report.snapshot import write_snapshot
    from shards.paths import expand

    write_snapshot(Path(expand(fspath(run))), Path(expand(fspath(folder))), checkpoint, licence, init_licence)
