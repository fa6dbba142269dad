"""The settings of a run: their types, defaults and ranges, and how a YAML and a command line become a Config.

What a setting does belongs to the module that reads it. Nothing here imports torch, so that `--help` is quick.
"""

from mstat.config.settings import (
    ACTIONS_SHARDS,
    ALL_SPLITS,
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
