"""Data sets on disk -> records. A source is one file, and one line in the table below.

Each module has a `read(...) -> Source`, and `add_arguments(parser)`, which declares the options of `build NAME` and
sets `read` on the parser's defaults: a function of the parsed arguments. `args.out` is the folder that is asked for,
`args.scratch` an empty place for temporary files, on the same disk, that lives until the build ends. Modules import
what they need to decode (scipy, av) inside functions, so that `--help` stays quick.
"""

from __future__ import annotations

from types import ModuleType

from shards.sources import duke, folder, generated, ilids, lsvid, mars, mot, prid

SOURCES: dict[str, ModuleType] = {
    "mars": mars,
    "duke": duke,
    "ilids": ilids,
    "prid": prid,
    "lsvid": lsvid,
    "folder": folder,
    "mot": mot,
    "synthetic": generated,
}
