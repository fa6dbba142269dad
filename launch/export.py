"""Write a model of a run to files: `python launch/export.py --run DIR [--checkpoint NAME] --out FOLDER`.

--format safetensors (the default) writes FOLDER/model.safetensors and FOLDER/model.json, which `mstat.load` and
--model.init read. --format onnx writes FOLDER/model.onnx, and --format torch FOLDER/model.pt2: graphs for other
runtimes, from frames to the features of `mstat.load(...).embed`, for any number of clips and frames (docs/export.md).
Without --checkpoint it exports the model of a finished run, or the newest checkpoint of a run that is not finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, config_of_run, report_errors, run_of
from mstat.config import Config
from mstat.errors import UserError
from mstat.files import read_json, write_json
from shards.paths import path
from shards.terminal import print_line

if TYPE_CHECKING:
    from mstat.model import MSTAT

FILES = {"safetensors": ("model.safetensors", "model.json"), "onnx": ("model.onnx",), "torch": ("model.pt2",)}


def main(argv: Sequence[str], prog: str = "launch/export.py") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=path, help="run folder (default: that of --checkpoint)")
    checkpoint_option(parser)
    parser.add_argument("--out", type=path, required=True, help="folder for the files; made if missing")
    parser.add_argument("--format", choices=FILES, default="safetensors", help="what to write (default: safetensors)")
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="precision of the weights (default: float32)"
    )
    parser.add_argument(
        "--init-licence", metavar="TEXT", help="licence of the start weights, model.init, for the metadata of a graph"
    )
    arguments = parser.parse_args(argv)

    def command() -> None:
        run, out = run_of(arguments), arguments.out
        config = config_of_run(run, [])
        for name in FILES[arguments.format]:
            if (out / name).exists():
                raise UserError(f"{out / name}: the file exists; give another --out, or remove it")
        if arguments.init_licence is not None and arguments.format == "safetensors":
            raise UserError("--init-licence: model.json has no metadata; give --format onnx or --format torch")

        if arguments.format == "safetensors" and arguments.dtype == "float32":
            source = export_run(run, arguments.checkpoint, config, out)
            print_line(f"{source} -> {out / 'model.safetensors'}")
            return
        from mstat.runs.source import model_of_run, provenance

        model, source = model_of_run(run, arguments.checkpoint)
        metadata = provenance(run, source, config, arguments.init_licence)
        if arguments.dtype == "float16":
            halve(model)
        out.mkdir(parents=True, exist_ok=True)
        if arguments.format == "safetensors":
            from mstat.weights.export import export

            export(out, {f"model.{k}": t for k, t in model.state_dict().items()}, model.config, model.embedding)
            print_line(f"{source} -> {out / 'model.safetensors'}")
            return
        from mstat.weights.graphs import write_graph

        file, difference = write_graph(model, out, arguments.format, metadata)
        print_line(f"{source} -> {file}; its features differ from the model's by at most {difference:.1g}")

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
        shutil.copyfile(files[1], out / files[1].name)
        description = read_json(files[0])
        settings = description.get("model")
        if isinstance(settings, dict) and settings.get("init"):
            settings["init"] = Path(str(settings["init"])).name  # a run of an older version names a folder of a machine
        write_json(out / files[0].name, description)
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


def halve(model: MSTAT) -> None:
    """Give a model half precision, in place.

    Raises:
        UserError: If a weight is too large for it.
    """
    from mstat.weights.checkpoint_files import not_finite
    from mstat.weights.safe_load import named

    model.half()
    if large := not_finite(model.state_dict()):
        raise UserError(f"--dtype float16: {named(large)} has values above 65,504, its largest: use --dtype float32")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
