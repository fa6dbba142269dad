"""The table of `make bench`: figures of the given benchmarks, from benchmarks/.figures/.

`python -m benchmarks.table NAME...` writes benchmarks/bench_<hardware>_<date>.md.
"""

from __future__ import annotations

import json
import sys

import torch

from benchmarks.harness import FIGURES, Figure, save, table

COLUMNS = ("figure", "mstat", "rival", "rival's", "ratio", "wanted", "limit", "of the limit")


def cells(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    share = "" if figure.share is None else f"{figure.share:.0%}"
    return (*figure[:4], ratio, figure.wanted, figure.limit, share)


def main(names: list[str]) -> None:
    missing = [name for name in names if not (FIGURES / f"{name}.json").exists()]
    if missing:
        sys.exit(f"no figures of {', '.join(missing)}: run their benchmarks first (make help)")
    rows = [cells(Figure(**row)) for name in names for row in json.loads((FIGURES / f"{name}.json").read_text())]
    without = [] if torch.cuda.is_available() else ["Not measured: what only a GPU can tell (`make bench-gpu`)."]
    save("bench", "All that is measured against a rival or a limit", *without, table(COLUMNS, rows), target="bench")


if __name__ == "__main__":
    main(sys.argv[1:])
