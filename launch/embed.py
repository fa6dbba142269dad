"""Write the features of a data set: `accelerate launch launch/embed.py --run DIR --shards SET --out FEATURES`.

Embeds all tracklets of SET, a folder or URL, by the trained run or a checkpoint; labels are not needed. Any setting of
the evaluation may follow, such as --eval.mode clips. Re-run the same command to go on after a stop. Where a protocol of
the set has queries, mAP and rank-1 of the features are printed. `mstat.metrics.load_features` reads FEATURES.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, config_of_run, report_errors, run_of, run_parser
from mstat.errors import UserError
from shards.paths import path


def main(argv: Sequence[str], prog: str = "launch/embed.py") -> int:
    options, overrides = arguments(argv, prog)

    def command() -> None:
        run, out = run_of(options), options.out
        config = config_of_run(run, [*overrides, "--data.shards", options.shards])

        import shards
        from mstat.config import changed
        from mstat.distributed.engine import Engine
        from mstat.evaluation.embed_set import Form, check, embed_set
        from mstat.evaluation.feature_writer import refuse_other_content
        from mstat.files import why_not_writable
        from mstat.runs import log
        from mstat.runs.checkpoint import find
        from mstat.weights.export import load_model

        # The protocol and split of the run are those of its own data set.
        config = changed(config, {"data.protocol": options.protocol, "data.split": options.split})
        refuse_other_content(out)
        if obstacle := why_not_writable(out.absolute().parent):
            raise UserError(f"{out}: cannot be written: {obstacle}")
        form = Form(options.dtype, options.dims)
        reader = shards.open(config.data.shards)
        check(reader, config, form)
        log.write_to(run)
        source = run if options.checkpoint is None else find(run, options.checkpoint)
        also = {"model.safetensors": source / "model.safetensors", "--out": out.name, "form": list(form)}
        with Engine(config, also=also) as engine:
            embed_set(engine, engine.place(load_model(source)), reader, config, form, out)

    return report_errors(command)


def arguments(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the settings that override those of the run."""
    parser = run_parser(prog, __doc__, "--eval.num_frames 32 or --eval.flip true", False)
    checkpoint_option(parser)
    parser.add_argument("--shards", "--data.shards", required=True, metavar="SET", help="data set: a folder or URL")
    parser.add_argument("--out", type=path, required=True, metavar="FEATURES", help="folder for the features")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="number type on disk")
    parser.add_argument(
        "--dims", type=int, metavar="K", help="project on K principal components, learned on the features"
    )
    parser.add_argument(
        "--data.protocol", dest="protocol", metavar="NAME", help="protocol of roles and scores (default: the first)"
    )
    parser.add_argument(
        "--data.split", dest="split", metavar="NAME", help="split of roles and scores (default: the first)"
    )
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
