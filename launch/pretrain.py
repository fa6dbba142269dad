"""Pretrain the STA stack on clips of actions: `accelerate launch launch/pretrain.py [--config configs/Y.yaml]`.

Writes RUN/model.safetensors for launch/train.py --model.init. Without a config it trains on synthetic actions, pairs of
which differ only in the order of frames; it makes the data set if it is missing. The stack has as many blocks as the
model of the section `model` uses. Settings of the ends of stages have no effect (model.stages, .num_attributes,
.num_prototypes, .iap, .tps_*, .bnneck and others), nor has loss.* except label_smoothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import report_errors
from launch.train import build_missing
from mstat.config import ACTIONS_SHARDS
from mstat.config.cli import parse
from mstat.config.packaged import CONFIGS

ACTIONS_CONFIG = CONFIGS / "actions.yaml"


def main(argv: Sequence[str], prog: str = "launch/pretrain.py") -> int:
    config = parse(argv, ACTIONS_CONFIG, prog=prog, description=__doc__)

    def command() -> None:
        # Heavy imports follow the check of the command line.
        from mstat.distributed.engine import Engine
        from mstat.distributed.signals import StopRequested
        from mstat.pretraining.pretrain import check_settings, pretrain

        check_settings(config)
        with Engine(config) as engine:
            if config.data.shards == ACTIONS_SHARDS:
                build_missing("synthetic-actions", ACTIONS_SHARDS, engine)
            with suppress(StopRequested):  # already printed and recorded
                pretrain(config, engine)

    return report_errors(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
