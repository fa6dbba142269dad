"""Score a run on few, occluded and small frames: `accelerate launch launch/robustness.py --run DIR [--quick]`.

Reads DIR/config.yaml, overridden by flags, and DIR/model.safetensors; writes DIR/robustness.json, DIR/robustness.md and
DIR/figures/robustness.svg. For another data set, it writes to DIR/evaluations/<name>. Re-run the same command to resume
a stopped study; it keeps the scored points.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import config_of_run, report_errors, run_parser


def main(argv: Sequence[str], prog: str = "launch/robustness.py") -> int:
    parser = run_parser(prog, __doc__, "--eval.num_frames 8 or --eval.degrade all")
    parser.add_argument("--quick", action="store_true", help="few points of two frames, as a test that it runs")
    arguments, overrides = parser.parse_known_args(argv)

    def command() -> None:
        config = config_of_run(arguments.run, overrides)

        from mstat.console import console
        from mstat.distributed.engine import Engine
        from mstat.evaluation.robustness import study
        from mstat.report.robustness import table
        from mstat.runs import log

        log.write_to(arguments.run)

        also = {"model.safetensors": arguments.run / "model.safetensors", "--quick": arguments.quick}
        with Engine(config, also=also) as engine:
            result = study(config, engine, arguments.quick)
            if engine.is_main:
                console().print(table(result))

    return report_errors(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
