"""`build synthetic`: draw the synthetic data set, then read it as MARS is read.

The tree is kept beside the shards: it is the same path that real data takes, open to look at.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from shards.records import DataError, Source
from shards.sources import mars

SEED_FILE = "seed.txt"  # in the tree: what it was drawn from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build synthetic`."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything that is drawn (default: 0)")
    parser.add_argument("--tree", type=Path, metavar="DIR", help="where to draw it (default: OUT-tree); it is kept")
    parser.set_defaults(
        read=lambda args: read(args.tree or args.out.with_name(args.out.name + "-tree"), args.seed, args.workers)
    )


def read(tree: Path, seed: int, workers: int = 2) -> Source:
    """Draw the tree where it is missing and read it. Raises DataError where it was drawn from another seed."""
    if not tree.exists():
        from shards.sources.synthetic import write_synthetic

        drawing = tree.with_name(tree.name + ".drawing")
        shutil.rmtree(drawing, ignore_errors=True)  # what a killed build left
        drawing.parent.mkdir(parents=True, exist_ok=True)
        write_synthetic(drawing, seed, workers=workers)
        (drawing / SEED_FILE).write_text(f"{seed}\n")
        drawing.rename(tree)
    elif not (tree / SEED_FILE).is_file() or (tree / SEED_FILE).read_text().strip() != str(seed):
        raise DataError(f"{tree}: not drawn from seed {seed}; remove it, or give another --tree")
    source = mars.read(tree, name="synthetic", partial=True)
    return replace(source, facts={"seed": str(seed)})
