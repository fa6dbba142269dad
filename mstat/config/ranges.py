"""Check the values of settings, so that an invalid value is refused by name before any work starts."""

from __future__ import annotations

import difflib
import math
from dataclasses import fields, is_dataclass
from functools import cache
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mstat.config import TRACKERS, Config


@cache
def ranges() -> dict[str, str]:
    """Return the interval of each numeric setting, by dotted key."""
    result: dict[str, str] = {}
    for field in fields(Config):
        section = getattr(Config(), field.name)
        inside = {f"{field.name}.{one.name}": one for one in fields(section)} if is_dataclass(section) else {}
        result |= {
            key: one.metadata["interval"]
            for key, one in {field.name: field, **inside}.items()
            if "interval" in one.metadata
        }
    return result


def out_of_range(config: Config) -> str | None:
    """Return an error message if a value of the config is invalid, else None."""
    for key, kind in setting_types().items():
        value = attrgetter(key)(config)
        if value in (None, "null", "~") and NoneType not in alternatives(kind):
            return f"{key} is null: give a value"
        if value == "":
            return f"{key} is empty: give a value, or omit it to get the default"
    for key, interval in ranges().items():
        value = attrgetter(key)(config)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not _is_inside(number, interval):
                or_null = ", or null" if NoneType in alternatives(setting_types()[key]) else ""
                return f"{key} is {number}; it must be {_in_words(interval, number)}{or_null}"
    return _contradiction(config)


def _contradiction(config: Config) -> str | None:
    """Return an error message if two settings contradict each other, else None."""
    loss, batch, schedule = config.loss, config.batch, config.schedule
    if config.clip.crop_padding >= min(config.model.image_size):
        return f"clip.crop_padding is {config.clip.crop_padding}; it must be less than both sides of model.image_size"
    if loss.metric == "sphereface" and (loss.angular_margin or 1) % 1:
        return f"loss.angular_margin is {loss.angular_margin}; for SphereFace it must be a whole number"
    for key, value in {"loss.metric_on": loss.metric_on, "eval.feature": config.eval.feature}.items():
        if value == "neck" and not config.model.bnneck:
            return f"{key} is neck, but model.bnneck is false: set model.bnneck to true, or {key} to feature"
    if batch.num_identities % loss.mining_groups:
        return (
            f"loss.mining_groups is {loss.mining_groups}; it must divide batch.num_identities "
            f"({batch.num_identities}), since a group holds all clips of an identity"
        )
    if not loss.cross_entropy_weight and (loss.metric == "none" or not loss.metric_weight):
        return (
            "loss.cross_entropy_weight is 0, and loss.metric or loss.metric_weight turns the metric loss off: "
            "keep one of the two losses"
        )
    if loss.stage_weights is not None and len(loss.stage_weights) != len(config.model.stages):
        return (
            f"loss.stage_weights is {list(loss.stage_weights)}; it must be one number for each of model.stages "
            f"({', '.join(config.model.stages)}), or null"
        )
    if loss.stage_weights is not None and not any(loss.stage_weights):
        return "loss.stage_weights is 0 for every stage, which trains nothing: give one stage a weight above 0"
    for name in config.train.log_with:
        if name not in TRACKERS:
            near = difflib.get_close_matches(name, TRACKERS, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"it must be of {', '.join(TRACKERS)}"
            return f"train.log_with has {name!r}: {advice}"
        if config.train.log_with.count(name) > 1:
            return f"train.log_with has {name!r} twice: name it once"
    if list(schedule.milestones) != sorted(set(schedule.milestones)):
        return f"schedule.milestones is {list(schedule.milestones)}; the epochs must ascend"
    if bool(schedule.milestones) != (schedule.name == "multistep"):
        return (
            f"schedule.milestones is {list(schedule.milestones)}, but schedule.name is {schedule.name}: "
            "give milestones with multistep, and with no other schedule"
        )
    return None


def lacks_triplets(config: Config) -> str | None:
    """Return an error message if BatchHard's loss would be 0 in every step, else None.

    BatchHard needs another clip of the same identity, and a clip of another identity, for each clip of a batch.
    """
    loss, batch = config.loss, config.batch
    if loss.metric != "batch_hard" or not loss.metric_weight:
        return None
    effect = "its loss is 0 in every step"
    other_loss = "choose another loss (--loss.metric none trains the cross-entropy alone)"
    if batch.num_tracklets < 2:
        cause = f"batch.num_tracklets is {batch.num_tracklets}: BatchHard has no second clip of an identity"
        return f"{cause}, so {effect}; set it to at least 2, or {other_loss}"
    if batch.num_identities // loss.mining_groups < 2:
        groups = f" and loss.mining_groups is {loss.mining_groups}" if loss.mining_groups > 1 else ""
        cause = f"batch.num_identities is {batch.num_identities}{groups}: BatchHard has no clip of another identity"
        return f"{cause}, so {effect}; give at least 2 identities per group, or {other_loss}"
    return None


@cache
def setting_types() -> dict[str, Any]:
    """Return the type of each setting, by dotted key."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(Config).items():
        fields = get_type_hints(kind) if hasattr(kind, "__dataclass_fields__") else None
        types |= {name: kind} if fields is None else {f"{name}.{key}": of_field for key, of_field in fields.items()}
    return types


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types that a setting may have: int and NoneType for `int | None`."""
    return get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)


def is_number(kind: Any) -> bool:
    """Return whether a setting is a number or a tuple of numbers."""
    return any(
        one in (int, float) or (get_origin(one) is tuple and get_args(one)[0] in (int, float))
        for one in alternatives(kind)
    )


def _ends(interval: str) -> tuple[float, float]:
    smallest, largest = interval[1:-1].split(", ")
    return float(smallest), float(largest)


def _is_inside(number: float, interval: str) -> bool:
    smallest, largest = _ends(interval)
    above = number > smallest if interval[0] == "(" else number >= smallest
    return above and (number < largest if interval[-1] == ")" else number <= largest)


def _in_words(interval: str, number: float) -> str:
    """Describe an interval in words. A large upper end is named only if `number` exceeds it."""
    smallest, largest = _ends(interval)
    words = f"{'more than' if interval[0] == '(' else 'at least'} {smallest:g}"
    if math.isinf(largest):
        return words if number <= smallest else f"{words} and finite"
    if largest > 1024 and number < largest:
        return words
    return f"{words} and {'less than' if interval[-1] == ')' else 'at most'} {largest:.10g}"
