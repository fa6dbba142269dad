"""Score a run on few frames, covered and small ones: `accelerate launch launch/robustness.py --run DIR [--quick]`.

Takes DIR/config.yaml, changed by flags, and DIR/model.safetensors; writes DIR/robustness.json, DIR/robustness.md and
DIR/figures/robustness.svg. It can be stopped and started again: what is scored stays.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import report_errors


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="launch/robustness.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any setting of launch/train.py may follow, as in --eval.num_frames 8 or --eval.degrade all.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder that launch/train.py made")
    parser.add_argument("--quick", action="store_true", help="few points of two frames: does it run?")
    arguments, overrides = parser.parse_known_args()

    def command() -> None:
        from mstat.configure import load_config

        if not (arguments.run / "config.yaml").is_file():
            raise ValueError(f"{arguments.run}: no config.yaml in it: --run must be a folder that launch/train.py made")
        config = load_config(arguments.run / "config.yaml", ["--run", str(arguments.run), *overrides])

        import rich

        from mstat.engine import Engine
        from mstat.report.robustness import table
        from mstat.robustness import study

        with Engine(config) as engine:
            found = study(config, engine, arguments.quick)
            if engine.is_main:
                rich.print(table(found))
                print(arguments.run / "figures" / "robustness.svg")

    return report_errors(command)


if __name__ == "__main__":
    sys.exit(main())
