"""Average the scores of an array of runs: `python -m mstat.cluster.collect FOLDER`.

Reads FOLDER/seed-*/evaluation.json and writes FOLDER/evaluation.json with the same keys. Each score is the mean over
the seeds; `sd` holds the standard deviations.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mstat.console import console, print_line
from mstat.errors import UserError
from mstat.files import read_json, write_json
from mstat.report.averages import mean_of, numbers
from mstat.report.scores import score_tables


def collect(folder: Path) -> dict[str, Any]:
    """Average the evaluations in `folder`/seed-*, write the mean, and return it.

    Raises:
        UserError: If an evaluation is missing.
    """
    runs = sorted((path for path in folder.glob("seed-*") if path.is_dir()), key=lambda path: int(path.name[5:]))
    missing = [path.name for path in runs if not (path / "evaluation.json").is_file()]
    if missing or not runs:
        what = f"no evaluation.json in {', '.join(missing)}" if missing else "no seed-* folder"
        raise UserError(f"{folder}: {what}; fix the cause, then run `launch/submit.py continue {folder}`")
    evaluations = {path.name: read_json(path / "evaluation.json") for path in runs}
    seeds = {name: numbers(evaluation) for name, evaluation in evaluations.items()}
    mean = {**mean_of(list(evaluations.values())), "seeds": seeds}
    write_json(folder / "evaluation.json", mean)
    return mean


def main() -> int:
    try:
        mean = collect(Path(sys.argv[1]))
    except (UserError, OSError) as error:
        print_line(f"error: {error}", file=sys.stderr)
        return 1
    console().print(*score_tables(mean))
    print_line(f"mean over {', '.join(mean['seeds'])}: {sys.argv[1]}/evaluation.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
