"""Score a trained run: `accelerate launch launch/evaluate.py --run DIR [--section.key value ...]`.

Reads DIR/config.yaml, overridden by flags, and DIR/model.safetensors; writes DIR/evaluation.json and DIR/report.html.
For another data set, protocol or split than the run's own, it writes to DIR/evaluations/<name>. With --checkpoint, the
run need not be finished, and it writes to DIR/evaluations/step-...
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, config_of_run, report_errors, run_of, run_parser
from shards.paths import path


def main() -> int:
    parser = run_parser("launch/evaluate.py", __doc__, "--eval.num_frames 32 or --data.protocol NAME", False)
    checkpoint_option(parser)
    parser.add_argument("--out", type=path, metavar="FOLDER", help="folder for evaluation.json and its companion files")
    arguments, overrides = parser.parse_known_args()

    def command() -> None:
        run = run_of(arguments)
        config = config_of_run(run, overrides)

        from mstat.distributed.engine import Engine
        from mstat.runs import log
        from mstat.training.splits import evaluate_runs

        log.write_to(run)

        with Engine(config, also={"model.safetensors": run / "model.safetensors"}) as engine:
            evaluate_runs(config, engine, arguments.checkpoint, arguments.out)

    return report_errors(command)


if __name__ == "__main__":
    sys.exit(main())
