"""Write a model of a run as two files: `python launch/export.py --run DIR [--checkpoint NAME] --out FOLDER`.

Writes FOLDER/model.safetensors and FOLDER/model.json, which `mstat.load` and --model.init read. Without --checkpoint
the model is the finished run's own, or that of the newest checkpoint of a run that is not finished.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, config_of_run, report_errors, run_of
from mstat.errors import UserError
from shards.paths import path
from shards.text import printable


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch/export.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=path, help="run folder; without it, that of --checkpoint")
    checkpoint_option(parser)
    parser.add_argument("--out", type=path, required=True, help="folder for the two files; made if missing")
    arguments = parser.parse_args(argv)

    def command() -> None:
        run, out = run_of(arguments), arguments.out
        config = config_of_run(run, [])
        for name in ("model.safetensors", "model.json"):
            if (out / name).exists():
                raise UserError(f"{out / name}: there already; give another --out, or remove it")

        from mstat.export import export_run

        source = export_run(run, arguments.checkpoint, config, out)
        print(printable(f"{source} -> {out / 'model.safetensors'}"))

    return report_errors(command)


if __name__ == "__main__":
    sys.exit(main())
