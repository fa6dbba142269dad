"""Score a trained run: `accelerate launch launch/evaluate.py --run DIR [--section.key value ...]`.

Takes DIR/config.yaml, changed by flags, and DIR/model.safetensors; writes DIR/evaluation.json and DIR/report.html.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import report_errors


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="launch/evaluate.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any setting of launch/train.py may follow, as in --eval.num_frames 32 or --data.protocol NAME.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder that launch/train.py made")
    arguments, overrides = parser.parse_known_args()

    def command() -> None:
        from mstat.configure import load_config

        if not (arguments.run / "config.yaml").is_file():
            raise ValueError(f"{arguments.run}: no config.yaml in it: --run must be a folder that launch/train.py made")
        config = load_config(arguments.run / "config.yaml", ["--run", str(arguments.run), *overrides])

        from mstat.engine import Engine
        from mstat.splits import evaluate_runs

        with Engine(config) as engine:
            evaluate_runs(config, engine)

    return report_errors(command)


if __name__ == "__main__":
    sys.exit(main())
