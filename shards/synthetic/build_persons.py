"""`build synthetic`: draw the synthetic data set, and read it like MARS.

The tree of pictures is kept beside the shards, for inspection.
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
    add_drawing(parser)
    parser.set_defaults(read=lambda args: read(tree_of(args), args.seed, args.workers))


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """Add the options of all synthetic sources."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the drawing (default: 0)")
    parser.add_argument("--tree", type=path, metavar="DIR", help="folder of the drawn pictures (default: OUT-tree)")


def tree_of(args: argparse.Namespace) -> Path:
    """Return the folder of the drawn pictures."""
    tree: Path = args.tree or args.out.with_name(f"{args.out.name}-tree")
    return tree


def read(tree: Path, seed: int, workers: int = 2) -> Source:
    """Draw the tree unless it exists, and read it.

    Raises UsageError on a negative seed, DataError if the tree is foreign, or was drawn from another seed.
    """
    from shards.synthetic import persons

    draw_where_missing(
        tree, seed, persons.provenance(seed), lambda: persons.write_synthetic(tree, seed, workers=workers)
    )
    source = mars.read(tree, name="synthetic", official=None)
    return replace(source, facts={"seed": str(seed)})


def draw_where_missing(tree: Path, seed: int, provenance: str, draw: Callable[[], None]) -> None:
    """Draw a tree if it is missing, or from an older generator; `provenance` is the expected content of its seed file.

    Raises DataError if the tree is foreign, or was drawn from another seed.
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
