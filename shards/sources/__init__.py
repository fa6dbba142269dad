"""Data sets on disk -> records. A source is one file with one function, and one line in the table below.

The function is `read(root, *, partial=False) -> Source`; `partial` only where a data set has official counts. A source
that needs more than a folder declares its own options in `add_arguments(parser)`, which sets `read` on the parser's
defaults: a function of the parsed arguments. `args.out` is the folder that is asked for, `args.scratch` an empty place
for temporary files, on the same disk, that lives until the build ends. The module's docstring is what `build NAME
--help` says. Modules import what they need to decode (scipy, av) inside functions, so that `--help` stays quick.
"""

from __future__ import annotations

import argparse
import inspect
from types import ModuleType

from shards.paths import path
from shards.sources import actions, duke, folder, ilids, lsvid, mars, mot, prid
from shards.synthetic import build_actions, build_persons

SOURCES: dict[str, ModuleType] = {
    "mars": mars,
    "duke": duke,
    "ilids": ilids,
    "prid": prid,
    "lsvid": lsvid,
    "folder": folder,
    "mot": mot,
    "actions": actions,
    "synthetic": build_persons,
    "synthetic-actions": build_actions,
}


def add_options(parser: argparse.ArgumentParser, source: ModuleType) -> None:
    """The options of `build NAME`; `read` on the parser's defaults takes the parsed arguments."""
    if hasattr(source, "add_arguments"):
        source.add_arguments(parser)
        return
    parser.add_argument("--source", type=path, required=True, metavar="DIR", help="ROOT of the layout above")
    options = []
    if "partial" in inspect.signature(source.read).parameters:
        parser.add_argument("--partial", action="store_true", help="accept counts other than the official ones")
        options.append("partial")
    parser.set_defaults(read=lambda args: source.read(args.source, **{name: getattr(args, name) for name in options}))
