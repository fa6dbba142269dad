"""`build synthetic`: draw the synthetic data set, then read it as MARS is read.

The tree is kept beside the shards: it is the same path that real data takes, open to look at.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from shards.paths import path
from shards.records import DataError, Source
from shards.sources import mars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build synthetic`."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything that is drawn (default: 0)")
    parser.add_argument("--tree", type=path, metavar="DIR", help="where to draw it (default: OUT-tree); it is kept")
    parser.set_defaults(
        read=lambda args: read(args.tree or args.out.with_name(args.out.name + "-tree"), args.seed, args.workers)
    )


def read(tree: Path, seed: int, workers: int = 2) -> Source:
    """Draw the tree where it is missing, or of an older generator, and read it.

    Raises UsageError on a negative seed, DataError where the tree was drawn from another seed, or is none of ours.
    """
    from shards.synthetic import persons

    draw_where_missing(
        tree, seed, persons.provenance(seed), lambda: persons.write_synthetic(tree, seed, workers=workers)
    )
    source = mars.read(tree, name="synthetic", official=None)
    return replace(source, facts={"seed": str(seed)})


def draw_where_missing(tree: Path, seed: int, provenance: str, draw: Callable[[], None]) -> None:
    """Draw a tree where it is missing, or was drawn by an older generator: `provenance` is what its seed file says.

    Raises DataError where the tree was drawn from another seed, or is none of ours.
    """
    from shards.synthetic.persons import SEED_FILE

    if tree.is_file() or (tree.exists() and any(tree.iterdir())):
        path = tree / SEED_FILE
        drawn_from = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not drawn_from.startswith(f"seed {seed}\n"):
            raise DataError(f"{tree}: not drawn from seed {seed}; remove it, or give another --tree")
        if drawn_from == provenance:
            return
        shutil.rmtree(tree)
    draw()
