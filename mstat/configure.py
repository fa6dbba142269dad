"""From a YAML and the command line to a Config, and back. Loads no torch, so that --help is quick."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml

from mstat.config import Config
from mstat.errors import UserError
from mstat.files import write_text
from shards.paths import expand


class _Parser(jsonargparse.ArgumentParser):
    """Complains in one line, with the nearest valid key, and exits with 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"{self.prog}: {_with_nearest_key(' '.join(message.split()))}", file=sys.stderr)
        raise SystemExit(2)


def parse(argv: Sequence[str], default_config: Path | None = None, **options: Any) -> Config:
    """The settings that a command line asks for: its YAML, or `default_config`, changed by its flags.

    Flags count wherever they stand: the YAML is read first even if it is named last.
    """
    parser = _parser(**options)
    files, flags = [], []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--config" and rest:
            files += [word, rest.pop(0)]
        elif word.startswith("--config="):
            files.append(word)
        else:
            flags.append(word)
    if not files and default_config is not None:
        files = ["--config", str(default_config)]
    parsed = parser.instantiate(parser.parse_args(files + flags))
    config = Config(**{key: value for key, value in vars(parsed).items() if key != "config"})
    try:
        expand_paths(config)
    except ValueError as error:
        parser.error(str(error))
    if complaint := out_of_range(config):
        parser.error(complaint)
    return config


def expand_paths(config: Config) -> None:
    """Put the home folder for `~` into every setting that is a path. Raises UsageError where there is no such user."""
    config.run, config.data.shards = expand(config.run), expand(config.data.shards)
    config.model.init = config.model.init and expand(config.model.init)


# Smallest and largest value of the numbers that would otherwise fail late and unclearly.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63),
    "data.num_workers": (0, 1024),
    "batch.num_identities": (1, 2**31),
    "batch.num_tracklets": (1, 2**31),
    "clip.num_frames": (1, 2**31),
    "clip.stride": (1, 2**31),
    "clip.flip": (0, 1),
    "clip.crop_padding": (0, 2**15),
    "clip.erase": (0, 1),
    "model.tps_probability": (0, 1),
    "model.tps_block": (0, 2**31),
    "model.drop_path": (0, 0.999),
    "loss.label_smoothing": (0, 0.999),
    "loss.metric_warmup_steps": (0, 2**31),
    "loss.mining_groups": (1, 2**31),
    "loss.metric_weight": (0, math.inf),
    "optim.lr": (0, math.inf),
    "schedule.step_epochs": (1, 2**31),
    "schedule.warmup_steps": (0, 2**31),
    "train.epochs": (1, 2**31),
    "train.save_every": (0, 2**31),
    "train.keep": (1, 2**31),
    "train.log_every": (1, 2**31),
    "eval.num_frames": (1, 2**31),
    "eval.batch_size": (1, 2**31),
    "eval.num_rankings": (0, 2**31),
    "eval.seed": (0, 2**63),
    "eval.occlusion": (0, 1),
}


def out_of_range(config: Config) -> str | None:
    """What is wrong with the numbers of a config, if anything."""
    for key, (smallest, largest) in RANGES.items():
        value = attrgetter(key)(config)
        if not smallest <= value <= largest:
            return f"{key} is {value}, it must be at least {smallest:g}" + (f" and at most {largest:g}" * (largest < 2))
    if config.eval.resolution is not None and config.eval.resolution < 1:
        return f"eval.resolution is {config.eval.resolution}, it must be at least 1, or null"
    if config.clip.crop_padding >= min(config.model.image_size):
        return f"clip.crop_padding is {config.clip.crop_padding}, it must be less than model.image_size"
    if config.loss.metric == "sphereface" and (config.loss.angular_margin or 1) % 1:
        return f"loss.angular_margin is {config.loss.angular_margin}, SphereFace's must be a whole number"
    if config.batch.num_identities % config.loss.mining_groups:
        return (
            f"loss.mining_groups is {config.loss.mining_groups}, it must divide batch.num_identities "
            f"({config.batch.num_identities}): a part holds whole identities"
        )
    return None


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The settings in a YAML file, changed by flags."""
    return parse(["--config", str(path), *overrides], prog=path.name)


def override(config: Config, settings: Mapping[str, str]) -> Config:
    """The settings of `config` with others for some dotted keys, in the words of a command line.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """
    plain = asdict(config)
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        within = plain[section] if section else plain
        if name not in within:
            raise UserError(_with_nearest_key(f"unrecognized arguments: --{key}"))
        within[name] = yaml.safe_load(value)
    parser = _plain_parser()
    changed = Config(**{k: v for k, v in vars(parser.instantiate(parser.parse_object(plain))).items() if k != "config"})
    expand_paths(changed)
    if complaint := out_of_range(changed):
        raise UserError(complaint)
    return changed


def save_config(config: Config, path: Path) -> None:
    """Write every setting, defaults too, as YAML that `load_config` reads back."""
    plain = asdict(config)
    plain["model"] = {k: list(v) if isinstance(v, tuple) else v for k, v in plain["model"].items()}
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _parser(**options: Any) -> jsonargparse.ArgumentParser:
    options.setdefault("usage", "%(prog)s [--config FILE] [--section.key VALUE ...]")
    options.setdefault("allow_abbrev", False)  # a cut-off --config would slip past the order that `parse` keeps
    parser = _Parser(**options)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below; flags change it")
    parser.add_class_arguments(Config, nested_key=None)
    return parser


@cache
def _plain_parser() -> jsonargparse.ArgumentParser:
    return _parser()


def _keys() -> list[str]:
    nested = asdict(Config())
    return list(nested) + [
        f"{section}.{key}" for section, values in nested.items() if isinstance(values, dict) for key in values
    ]


def _with_nearest_key(message: str) -> str:
    in_group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    alone = re.search(r"unrecognized arguments: --([\w.]+)|Option '([\w.]+)' is not accepted", message)
    if in_group:
        key = ".".join(in_group.groups())
    elif alone:
        key = alone[1] or alone[2]
    else:
        return message
    near = difflib.get_close_matches(key, ["config", *_keys()], n=1, cutoff=0.4)
    return f"unknown setting {key!r}" + (f": did you mean {near[0]!r}?" if near else "; --help lists all")
