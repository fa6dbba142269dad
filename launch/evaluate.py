"""Score a trained run: `accelerate launch launch/evaluate.py --run DIR [--section.key value ...]`.

Reads DIR/config.yaml, overridden by flags, and DIR/model.safetensors; writes DIR/evaluation.json and DIR/report.html.
For another data set, protocol or split than the run's own, it writes to DIR/evaluations/<name>. --data.shards takes
several data sets, which are scored one after the other. With --checkpoint, the run need not be finished, and it writes
to DIR/evaluations/step-...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, config_of_run, report_errors, run_of, run_parser
from shards.paths import path


def main(argv: Sequence[str], prog: str = "launch/evaluate.py") -> int:
    options, overrides = arguments(argv, prog)

    def command() -> None:
        run = run_of(options)
        chosen = [["--data.shards", place] for place in options.shards] or [[]]
        configs = [config_of_run(run, [*overrides, *words]) for words in chosen]

        from mstat.distributed.agreement import set_checksum
        from mstat.distributed.engine import Engine
        from mstat.runs import log
        from mstat.training.data_sets import evaluate_on_sets

        log.write_to(run)

        also = {"model.safetensors": run / "model.safetensors", "number of data sets": len(configs)}
        for number, config in enumerate(configs[1:], 2):
            also |= set_checksum(f"data.shards, set {number}", config.data.shards)
        with Engine(configs[0], also=also) as engine:
            evaluate_on_sets(configs, engine, options.checkpoint, options.out)

    return report_errors(command)


def arguments(argv: Sequence[str], prog: str = "launch/evaluate.py") -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the settings that override those of the run."""
    parser = run_parser(prog, __doc__, "--eval.num_frames 32 or --data.protocol NAME", False)
    checkpoint_option(parser)
    parser.add_argument(
        "--data.shards",
        dest="shards",
        nargs="+",
        action="extend",
        default=[],
        metavar="SET",
        help="one or several data sets (default: the one that the run was trained on)",
    )
    parser.add_argument(
        "--out",
        type=path,
        metavar="FOLDER",
        help="folder for evaluation.json and its companion files; with several data sets, FOLDER/<name of the set>",
    )
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
