"""Print the path of the installed configs, or of one of them: `mstat configs [NAME]`.

`accelerate launch --config_file $(mstat configs accelerate/zero2.yaml) -m mstat train --config mars.yaml`
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mstat.config.packaged import CONFIGS
from shards.terminal import print_line


def main(argv: Sequence[str], prog: str = "launch/configs.py") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
    parser.add_argument("name", nargs="?", metavar="NAME", help=", ".join(names))
    name = parser.parse_args(argv).name
    if name is not None and name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f": did you mean {near[0]}?" if near else ""
        print_line(f"{prog}: {CONFIGS / name}: no such file{hint}", file=sys.stderr)
        return 2
    print_line(CONFIGS / (name or ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
