"""`build synthetic-actions`: draw pairs of actions that differ only in the order of frames; read them like `actions`.

    OUT-tree/{train,test}/{growing,shrinking,rising,sinking,...}/<clip>/<frame>.jpg

In each pair, one action is the other played backwards (shards/synthetic/drawing/actions.py). Only a model that uses the
order of frames can tell them apart. The tree is kept beside the shards.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from shards.records import Source, UsageError
from shards.sources import actions
from shards.synthetic.build_persons import add_drawing, draw_where_missing, tree_of

NUM_TRAIN, NUM_TEST = 80, 25  # clips of each class
JPEG_QUALITY = 90
GENERATOR = 1  # increased whenever the same seed gives other bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build synthetic-actions`."""
    add_drawing(parser)
    parser.set_defaults(read=lambda args: read(tree_of(args), args.seed))


def read(tree: Path, seed: int, *, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST) -> Source:
    """Draw the tree unless it exists, and read it.

    Raises UsageError on a negative seed, DataError if the tree is foreign, or was drawn from another seed.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: must not be negative")
    provenance = f"seed {seed}\nactions {GENERATOR}, {num_train} and {num_test} clips\n"
    draw_where_missing(tree, seed, provenance, lambda: write(tree, seed, provenance, num_train, num_test))
    source = actions.read(tree, name="synthetic-actions")
    return replace(source, facts={"seed": str(seed), **source.facts})


def write(tree: Path, seed: int, provenance: str, num_train: int, num_test: int) -> None:
    """Draw the tree atomically. The same seed gives the same bytes."""
    from shards import images
    from shards.synthetic.drawing.actions import PAIRS, draw_clip
    from shards.synthetic.persons import SEED_FILE, draft_of

    with draft_of(tree) as draft:
        for pair in PAIRS:
            for number in range(num_train + num_test):
                forwards = draw_clip(seed, pair, number)
                split = "train" if number < num_train else "test"
                for name, frames in zip(pair, (forwards, forwards[::-1]), strict=True):
                    clip = draft / split / name / f"{number:04d}"
                    clip.mkdir(parents=True)
                    for i, frame in enumerate(frames, start=1):
                        (clip / f"{i:02d}.jpg").write_bytes(images.encode(frame, JPEG_QUALITY))
        (draft / SEED_FILE).write_text(provenance)
