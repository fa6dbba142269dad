"""Show the size of a config's model, part by part, without allocating it: `python -m mstat.model`.

With `--init FILE`, show how a checkpoint would initialise that model, key by key.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from launch.common import report_errors
from mstat.config import Config, ModelConfig
from mstat.config.cli import parse
from mstat.console import console, print_line
from mstat.errors import UserError
from mstat.model.mstat import MSTAT
from mstat.report.init_table import print_start
from mstat.report.tables import Part, Row, Table
from mstat.weights.pretrained import load_pretrained
from shards.paths import path
from shards.terminal import print_anything

PARTS = ("stem", "stage1.blocks", "stage1.aap", "stage2.blocks", "stage2.iap", "stage3.blocks", "stage3.iap")
OTHER = "norms, class token"


class Size(NamedTuple):
    """Parameters of a part, and floating point operations (2 per multiply-add) of its forward pass on one clip."""

    parameters: int
    flops: int


def part_of(name: str) -> str:
    """Return the part to which a module or parameter belongs."""
    return next((part for part in PARTS if name == part or name.startswith(part + ".")), OTHER)


def count(config: ModelConfig, num_frames: int) -> dict[str, Size]:
    """Return the size of each part on one clip of `num_frames`; parts that the config leaves out have size 0.

    FLOPs count matrix products, including attention; elementwise operations do not count.
    """
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        model = MSTAT(config)
        with counter:
            model(torch.empty(1, num_frames, *config.image_size, 3, dtype=torch.uint8))
    parameters = dict.fromkeys((*PARTS, OTHER), 0)
    for name, parameter in model.named_parameters():
        parameters[part_of(name)] += parameter.numel()
    flops = dict.fromkeys((*PARTS, OTHER), 0)
    per_module = counter.get_flop_counts()
    for name, _ in model.named_modules():
        if name in PARTS or re.fullmatch(r"stage\d\.blocks\.\d+", name):
            flops[part_of(name)] += sum(per_module.get(f"MSTAT.{name}", {}).values())
    assert sum(flops.values()) == counter.get_total_flops()
    return {part: Size(parameters[part], flops[part]) for part in parameters}


def main(argv: Sequence[str], prog: str = "python -m mstat.model") -> int:
    """Print a table and return the exit status: 0, 1 if a checkpoint is refused, or 2 if the config is bad."""
    print_anything()
    settings = "Settings of a run, such as --model.patch_size 14, override the YAML."
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, epilog=settings)
    parser.add_argument("--config", type=path, help="YAML of a run (default: the paper's model)")
    parser.add_argument("--frames", type=int, help="frames of a clip (default: the config's clip.num_frames)")
    parser.add_argument("--init", type=path, metavar="FILE", help="show how a run with --model.init FILE would start")
    options, flags = parser.parse_known_args(argv)
    if options.frames is not None and options.frames < 1:
        parser.error(f"--frames is {options.frames}; it must be at least 1")
    config_file = ["--config", str(options.config)] if options.config else []
    run = parse([*config_file, *flags], prog=parser.prog) if config_file or flags else Config()
    if options.init:
        return show_init(run.model, options.init)
    config, frames = run.model, options.frames or run.clip.num_frames
    try:
        sizes = count(config, frames)
    except UserError as error:
        print_line(error, file=sys.stderr)
        return 2
    height, width = config.image_size
    total = Size(*(sum(column) for column in zip(*sizes.values(), strict=True)))
    *rows, last = (
        Row(part, [f"{size.parameters:,}", f"{size.flops / 1e9:,.3f}"])
        for part, size in {**sizes, "total": total}.items()
    )
    table = Table(
        ["part", "parameters", "GFLOP"],
        [*rows, Part(), last],
        title=f"MSTAT, one clip of {frames} frames, {height} x {width}",
        caption="Forward pass; 2 FLOPs per multiply-add of matrix products and attention. Classifiers are not counted.",
    )
    console().print(table)
    return 0


def show_init(config: ModelConfig, file: Path) -> int:
    """Print how `file` would initialise the model of `config`, or why it cannot, and return the exit status."""
    try:
        with torch.device("meta"):
            model = MSTAT(config)
    except UserError as error:
        print_line(error, file=sys.stderr)
        return 2
    return report_errors(lambda: print_start(str(file), load_pretrained(model, file)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
