"""The one table of `make bench`: the figures that the benchmarks have left in benchmarks/.figures/.

`python benchmarks/table.py NAME...` prints those of the named benchmarks and writes them to
benchmarks/bench_<hardware>_<date>.md.
"""

from __future__ import annotations

import json
import sys

from record import FIGURES, Figure, conditions, save
from rich.console import Console
from rich.table import Table

COLUMNS = ("figure", "mstat", "rival", "rival's", "ratio", "wanted", "limit", "of the limit")


def cells(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    share = "" if figure.share is None else f"{figure.share:.0%}"
    return (figure.what, figure.ours, figure.rival, figure.theirs, ratio, figure.wanted, figure.limit, share)


def main(names: list[str]) -> None:
    missing = [name for name in names if not (FIGURES / f"{name}.json").exists()]
    if missing:
        sys.exit(f"no figures of {', '.join(missing)}: run their benchmarks first (make help)")
    rows = [cells(Figure(**row)) for name in names for row in json.loads((FIGURES / f"{name}.json").read_text())]
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    save(
        "bench",
        "\n".join(["# All that is measured against a rival or a limit\n", conditions("bench") + "\n", *lines, ""]),
    )
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
