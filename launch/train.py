"""Train MSTAT: `accelerate launch [--config_file configs/accelerate/X.yaml] launch/train.py [--config configs/Y.yaml]`.

Without a config it trains a small model on the synthetic data set, and makes the data set if it is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import SYNTHETIC_CONFIG, report_errors
from mstat.config import DataConfig
from mstat.config.cli import parse
from mstat.errors import UserError

if TYPE_CHECKING:
    from mstat.distributed.engine import Engine


def main(argv: Sequence[str], prog: str = "launch/train.py") -> int:
    config = parse(argv, SYNTHETIC_CONFIG, prog=prog, description=__doc__)

    def command() -> None:
        # Heavy imports follow the check of the command line.
        from mstat.distributed.engine import Engine
        from mstat.distributed.signals import StopRequested
        from mstat.training.splits import train_runs

        with Engine(config) as engine:
            make_synthetic(config.data, engine)
            with suppress(StopRequested):  # already printed and recorded
                train_runs(config, engine)

    return report_errors(command)


def make_synthetic(config: DataConfig, engine: Engine) -> None:
    """Make the synthetic data set if the config uses it and it is missing."""
    if config.shards == DataConfig.shards:
        build_missing("synthetic", config.shards, engine)


def build_missing(source: str, shards: str, engine: Engine) -> None:
    """Make a synthetic data set if it is missing, like `python -m shards build SOURCE`; one rank does, others wait."""
    from shards.__main__ import main as shards_main

    if engine.from_main(not (Path(shards) / "dataset.json").exists()):
        if engine.is_main and (status := shards_main(["build", source, "--out", shards])):
            raise UserError(
                f"{shards}: the build of the data set {source} failed (exit status {status}): see its message above"
            )
        engine.barrier()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
