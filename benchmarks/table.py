"""The one table of `make bench`: the figures that the benchmarks have left in benchmarks/.figures/.

`python benchmarks/table.py NAME...` prints those of the named benchmarks and writes them to
benchmarks/bench_<hardware>_<date>.md.
"""

from __future__ import annotations

import json
import sys

import torch
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
    head = ["# All that is measured against a rival or a limit\n", conditions("bench") + "\n"]
    if not torch.cuda.is_available():
        head.append("Not measured: what only a GPU can tell (`make bench-gpu`).\n")
    save("bench", "\n".join([*head, *lines, ""]))
    show(rows)


def show(rows: list[tuple[str, ...]]) -> None:
    """The same for a terminal: six columns, so that they have room for their words."""
    table = Table("figure", "mstat", "rival", "ratio", "wanted", "of the limit", show_lines=True)
    for what, ours, rival, theirs, ratio, wanted, limit, share in rows:
        of_limit = f"{share} of {limit}" if share else limit
        table.add_row(what, ours, ": ".join(filter(None, (rival, theirs))), ratio, wanted, of_limit)
    console = Console()
    Console(width=max(console.width, 120)).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
