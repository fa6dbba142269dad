"""Pretrain the STA stack on clips of actions: `accelerate launch launch/pretrain.py [--config configs/Y.yaml]`.

Writes RUN/model.safetensors, from which launch/train.py --model.init starts. Without a config it trains on synthetic
actions, pairs of which differ only in the order of frames; it makes the set if it is missing. It does not use the
settings model.stages, .num_attributes, .num_prototypes, .iap, .tps_*, .bnneck and others of the ends of stages, nor
loss.* except label_smoothing: the stack has as many blocks as the model of that section will take.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import PROJECT, report_errors
from launch.train import build_missing
from mstat.config import ACTIONS_SHARDS
from mstat.config.cli import parse

ACTIONS_CONFIG = PROJECT / "configs" / "actions.yaml"


def main() -> int:
    config = parse(sys.argv[1:], ACTIONS_CONFIG, prog="launch/pretrain.py", description=__doc__)

    def command() -> None:
        # Heavy imports come after the command line is known to be good.
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
    sys.exit(main())
