"""Write a run's model with its model card, and push it to the Hub: `python launch/push.py --run DIR --to ORG/NAME`.

The folder has model.safetensors, model.json, config.yaml, evaluation.json and README.md, the model card: data set,
protocol, scores with intervals, seed, commit, versions, licences, and what the model must not be used for. --out FOLDER
writes it without a network; look at it before you push. `mstat.load("ORG/NAME")` loads it. The token is HF_TOKEN, or
that of `hf auth login` (docs/hub.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, report_errors, run_of
from mstat.errors import UserError
from shards.paths import path
from shards.terminal import print_line


def main(argv: Sequence[str], prog: str = "launch/push.py") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", type=path, help="run folder (default: that of --checkpoint)")
    checkpoint_option(parser)
    add("--to", metavar="ORG/NAME", help="repository on the Hub; made if missing")
    add("--out", type=path, metavar="FOLDER", help="folder to write and keep; needed without --to")
    add("--private", action="store_true", help="make a missing repository private; refuse a public one")
    add("--licence", metavar="ID", help="licence of the weights, such as apache-2.0, for the card")
    add("--init-licence", metavar="TEXT", help="licence of the start weights, model.init, for the card")
    arguments = parser.parse_args(argv)
    if arguments.to is None and arguments.out is None:
        parser.error("give --to ORG/NAME to push, or --out FOLDER to write the files, or both")
    if arguments.private and arguments.to is None:
        parser.error("--private: of a repository: give --to ORG/NAME")

    def command() -> None:
        run = run_of(arguments)

        from mstat.report.snapshot import write_snapshot
        from mstat.weights import hub

        name = arguments.to and arguments.to.removeprefix(hub.SCHEME)
        if name is not None and ((repository := hub.parse(name)) is None or repository.revision):
            raise UserError(f"--to {arguments.to}: not a repository: write organisation/name")
        with tempfile.TemporaryDirectory() as scratch:
            out = arguments.out or Path(scratch, run.resolve().name)
            write_snapshot(run, out, arguments.checkpoint, arguments.licence, arguments.init_licence, name)
            if arguments.out:
                print_line(f"model and card: {out}")
            if name is not None:
                print_line(f"pushed: {hub.upload(out, name, arguments.private, f'Model of {run.resolve().name}')}")
        if arguments.licence is None:
            print_line("note: the card states no licence of the weights: --licence ID does", file=sys.stderr)

    return report_errors(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
