"""Write a model of a run as two files: `python launch/export.py --run DIR [--checkpoint NAME] --out FOLDER`.

Writes FOLDER/model.safetensors and FOLDER/model.json, which `mstat.load` and --model.init read. Without --checkpoint it
exports the model of a finished run, or the newest checkpoint of a run that is not finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, config_of_run, report_errors, run_of
from mstat.config import Config
from mstat.errors import UserError
from shards.paths import path
from shards.terminal import print_line


def main(argv: Sequence[str], prog: str = "launch/export.py") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=path, help="run folder (default: that of --checkpoint)")
    checkpoint_option(parser)
    parser.add_argument("--out", type=path, required=True, help="folder for the two files; made if missing")
    arguments = parser.parse_args(argv)

    def command() -> None:
        run, out = run_of(arguments), arguments.out
        config = config_of_run(run, [])
        for name in ("model.safetensors", "model.json"):
            if (out / name).exists():
                raise UserError(f"{out / name}: the file exists; give another --out, or remove it")

        source = export_run(run, arguments.checkpoint, config, out)
        print_line(f"{source} -> {out / 'model.safetensors'}")

    return report_errors(command)


def export_run(run: Path, checkpoint: str | None, config: Config, out: Path) -> Path:
    """Write the model of a run to `out`, and return its source: a file or a checkpoint folder.

    Args:
        checkpoint: A name for `mstat.runs.checkpoint.find`; None is the model of a finished run, or the newest
            checkpoint of a run that is not finished.
    """
    from mstat.model import Embedding
    from mstat.runs.checkpoint import find
    from mstat.weights.checkpoint_files import META, read_meta, read_weights
    from mstat.weights.export import export
    from mstat.weights.rebuild import model_config

    files = [run / name for name in ("model.json", "model.safetensors")]
    if checkpoint is None and all(file.is_file() for file in files):
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, out / file.name)
        return files[1]
    folder = find(run, checkpoint or "newest")
    meta, weights = read_meta(folder), read_weights(folder)
    try:
        config = dataclasses.replace(config, model=model_config(meta.get("model")))
    except UserError as error:
        raise UserError(f"{folder / META}: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    if meta.get("pretrain") is None:
        export(out, weights, config.model, Embedding(config.eval.feature, config.eval.stage_norm))
    else:
        from mstat.pretraining.pretrain import ActionRecognition

        ActionRecognition().export(out, weights, config)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
