"""`build synthetic-actions`: draw pairs of actions that only time tells apart, then read them as `actions` are read.

    OUT-tree/{train,test}/{growing,shrinking,rising,sinking,...}/<clip>/<frame>.jpg

Of each pair one action is the other played backwards, frame by frame (see shards/synthetic/drawing/actions.py): what it
takes to show that a model knows the order of frames. The tree is kept beside the shards.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from shards.paths import path
from shards.records import Source, UsageError
from shards.sources import actions
from shards.synthetic.build_persons import draw_where_missing

NUM_TRAIN, NUM_TEST = 80, 25  # clips of each class
JPEG_QUALITY = 90
GENERATOR = 1  # goes up whenever the same seed gives other bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build synthetic-actions`."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything that is drawn (default: 0)")
    parser.add_argument("--tree", type=path, metavar="DIR", help="where to draw it (default: OUT-tree); it is kept")
    parser.set_defaults(read=lambda args: read(args.tree or args.out.with_name(args.out.name + "-tree"), args.seed))


def read(tree: Path, seed: int, *, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST) -> Source:
    """Draw the tree where it is missing, or of an older generator, and read it.

    Raises UsageError on a negative seed, DataError where the tree was drawn from another seed, or is none of ours.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: must not be negative")
    provenance = f"seed {seed}\nactions {GENERATOR}, {num_train} and {num_test} clips\n"
    draw_where_missing(tree, seed, provenance, lambda: write(tree, seed, provenance, num_train, num_test))
    source = actions.read(tree, name="synthetic-actions")
    return replace(source, facts={"seed": str(seed), **source.facts})


def write(tree: Path, seed: int, provenance: str, num_train: int, num_test: int) -> None:
    """Draw the tree, whole or not at all. The same seed gives the same bytes."""
    import simplejpeg

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
                        data = simplejpeg.encode_jpeg(frame.copy(), JPEG_QUALITY, "RGB", "420")
                        (clip / f"{i:02d}.jpg").write_bytes(data)
        (draft / SEED_FILE).write_text(provenance)
