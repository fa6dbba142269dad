"""Run an experiment of the paper, and compare with its scores: `accelerate launch launch/reproduce.py table3`.

Stopped runs are resumed, finished ones are not repeated, and all experiments share their runs. With `--array-task I/N`
it does a share of the runs, for cluster jobs. Without it, it does the missing runs and writes the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import SYNTHETIC_CONFIG, report_errors
from mstat.config.cli import parse
from mstat.errors import UserError
from mstat.paper.experiments import EXPERIMENTS, QUICK
from shards.paths import path
from shards.sources.options import task_of

if TYPE_CHECKING:
    from mstat.config import Config


def main(argv: Sequence[str], prog: str = "launch/reproduce.py") -> int:
    options, rest = arguments(argv, prog)
    settings = settings_of(options, rest, prog)
    experiment = EXPERIMENTS[options.experiment]

    def command() -> None:
        from launch.train import make_synthetic
        from mstat.console import console, print_line
        from mstat.distributed.engine import Engine
        from mstat.distributed.signals import StopRequested
        from mstat.paper.reproduce import jobs, results, tables, write_results
        from mstat.training.splits import train_runs

        if settings.train.eval_every is None:
            raise UserError("train.eval_every is null, but the table needs scores: set it to 0 to evaluate at the end")
        out = folder_of(options, settings)
        of_jobs = jobs(experiment, settings, out, 1 if options.quick else options.seeds)
        runs = list({job.config.run: job for job in of_jobs}.values())  # rows of equal settings share a run
        if options.array_task:
            number, count = options.array_task
            runs = runs[number - 1 :: count]
        also = {f"--{name}": str(value) for name, value in vars(options).items()}
        with Engine(settings, also=also) as engine, suppress(StopRequested):  # already printed and recorded
            make_synthetic(settings.data, engine)
            for number, job in enumerate(runs, start=1):
                done = engine.from_main(job.is_done())
                if engine.is_main:
                    print_line(f"run {number} of {len(runs)}: {job.config.run}{' is done' if done else ''}")
                if not done:
                    train_runs(job.config, engine)
            if not engine.is_main:
                return
            if waiting := {job.config.run for job in of_jobs if not job.is_done()}:
                print_line(f"{len(waiting)} runs of {options.experiment} are not done; the last one writes the table")
                return
            result = results(options.experiment, experiment, of_jobs)
            for table in tables(result):
                console().print(table)
            for path in write_results(out, experiment, result):
                print_line(path)

    return report_errors(command)


def settings_of(options: argparse.Namespace, rest: Sequence[str], prog: str = "launch/reproduce.py") -> Config:
    """Return the settings that all runs of the experiment share."""
    quick = [f"--{key}={value}" for key, value in QUICK.items()] if options.quick else []
    return parse([*quick, *rest], SYNTHETIC_CONFIG, prog=f"{prog} {options.experiment}")


def folder_of(options: argparse.Namespace, settings: Config) -> Path:
    """Return the folder of all runs and tables."""
    name = "quick" if options.quick else "full"
    result: Path = options.out or Path("runs") / "reproduce" / Path(settings.data.shards).parent.name / name
    return result


def arguments(argv: Sequence[str], prog: str = "launch/reproduce.py") -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the other arguments, which are settings."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other flags are settings of launch/train.py (--config FILE, --section.key VALUE).",
        allow_abbrev=False,
    )
    titles = "; ".join(f"{name}: {experiment.title.partition(': ')[2]}" for name, experiment in EXPERIMENTS.items())
    parser.add_argument("experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help=titles)
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs per row; seeds count up from the config's (default: 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="40 steps and one seed, as a test that it runs; the scores are meaningless"
    )
    parser.add_argument(
        "--out", type=path, help="folder of runs and tables (default: runs/reproduce/<set>/<full|quick>)"
    )
    parser.add_argument("--array-task", type=task_of, metavar="I/N", help="do every N-th run, starting with the I-th")
    options, rest = parser.parse_known_args(argv)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options, rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
