"""Sources: modules that read data sets from disk. Each has one file, one function, and one line in the table below.

The modules that the table does not name are what sources share. docs/datasets.md builds a source step by step.

The function is `read(root, *, partial=False) -> Source`; a data set without official counts has no `partial`. A source
that needs more than a folder declares its options in `add_arguments(parser)`, which sets the parser's default `read` to
a function of the parsed arguments. `args.out` is the output folder. `args.scratch` is a folder for temporary files on
the same disk, kept until the build ends. The module's docstring is the text of `build NAME --help`. Modules import
their decoders (scipy, av) inside functions, so that `--help` stays fast.
"""

from __future__ import annotations

import argparse
import inspect
from types import ModuleType

from shards.paths import path
from shards.sources import actions, agvpreid, ccvid, duke, folder, ilids, listed, lsvid, mars, mevid, mot, prid
from shards.synthetic import build_actions, build_persons

SOURCES: dict[str, ModuleType] = {
    "mars": mars,
    "duke": duke,
    "ilids": ilids,
    "prid": prid,
    "lsvid": lsvid,
    "mevid": mevid,
    "ccvid": ccvid,
    "agvpreid": agvpreid,
    "folder": folder,
    "list": listed,
    "mot": mot,
    "actions": actions,
    "synthetic": build_persons,
    "synthetic-actions": build_actions,
}


def add_options(parser: argparse.ArgumentParser, source: ModuleType) -> None:
    """Add the options of `build NAME`, and set the parser's default `read`."""
    if hasattr(source, "add_arguments"):
        source.add_arguments(parser)
        return
    parser.add_argument("--source", type=path, required=True, metavar="DIR", help="ROOT of the layout above")
    options = []
    if "partial" in inspect.signature(source.read).parameters:
        parser.add_argument("--partial", action="store_true", help="accept counts other than the official ones")
        options.append("partial")
    parser.set_defaults(read=lambda args: source.read(args.source, **{name: getattr(args, name) for name in options}))
