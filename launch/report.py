"""Make the report of a run again, or compare runs: `python launch/report.py RUN [RUN ...]`.

For one RUN it writes RUN/report.html, and its figures as files to RUN/figures. For several, it writes one page with
their scores, curves and differences, and with the matrix of runs and data sets that launch/evaluate.py --data.shards
has scored; it prints the differences on the same queries. Only figures with frames need the shards; without shards the
page says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import report_errors
from shards.paths import path, place
from shards.terminal import print_line


def main(argv: Sequence[str], prog: str = "launch/report.py") -> int:
    options = arguments(argv, prog)

    def command() -> None:
        from mstat.console import console
        from mstat.report import cross, paired
        from mstat.report.compare import figures_folder, write_comparison
        from mstat.report.html import write_report
        from mstat.report.run_groups import compared, grouped
        from mstat.report.run_reader import check_is_run

        for run in options.runs:
            check_is_run(run)
        if len(options.runs) == 1:
            import shards

            reader = shards.open(options.shards) if options.shards else None
            page = write_report(options.runs[0], reader, proxies=options.proxies, tracklets=options.tracklets)
        else:
            page = write_comparison(options.runs, options.out or Path("comparison.html"))
            console().print(paired.table(grouped(compared(options.runs))))
        print_line(page)
        if len(options.runs) > 1:
            for path in cross.written(figures_folder(page)):
                print_line(path)

    return report_errors(command)


def arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help="run folder, also one of --data.split all")
    parser.add_argument(
        "--out",
        type=path,
        metavar="PAGE",
        help="page of a comparison (default: comparison.html); its figures go to PAGE-figures beside it",
    )
    parser.add_argument(
        "--proxies",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="attributes whose attention to show, counted from 0",
    )
    parser.add_argument(
        "--tracklets", nargs="+", default=[], metavar="KEY", help="tracklets on which to show it, such as 0002C1T0001"
    )
    parser.add_argument(
        "--shards",
        type=place,
        metavar="DIR",
        help="folder or URL of the run's shards, if they are not at data.shards of its config.yaml",
    )
    options = parser.parse_args(argv)
    if len(options.runs) == 1 and options.out:
        parser.error("--out needs several runs; the report of one run is RUN/report.html")
    if len(options.runs) > 1 and (options.proxies or options.tracklets):
        parser.error("--proxies and --tracklets need exactly one run")
    if len(options.runs) > 1 and options.shards:
        parser.error("--shards needs exactly one run")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
