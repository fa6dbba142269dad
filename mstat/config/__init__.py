"""Settings of a run: their types, defaults and ranges, and parsing of a YAML and a command line into a Config.

The module that reads a setting implements its effect. Nothing here imports torch, so that `--help` is quick.
"""

from mstat.config.settings import (
    ACTIONS_SHARDS,
    ALL_SPLITS,
    TRACKERS,
    BatchConfig,
    ClipConfig,
    Config,
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    ScheduleConfig,
    TrainConfig,
    changed,
)

__all__ = [
    "ACTIONS_SHARDS",
    "ALL_SPLITS",
    "TRACKERS",
    "BatchConfig",
    "ClipConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PretrainConfig",
    "ScheduleConfig",
    "TrainConfig",
    "changed",
]
