"""Checks of the values of settings, so that a bad value is refused by name before any work."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from functools import cache
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mstat.config import Config


@cache
def ranges() -> dict[str, str]:
    """The interval of each setting that is a number, by dotted key."""
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
    """Return what is wrong with the values of a config, or None."""
    for key, kind in setting_types().items():
        value = attrgetter(key)(config)
        if value in (None, "null", "~") and NoneType not in alternatives(kind):
            return f"{key} is null, it must have a value"
        if value == "":
            return f"{key} is empty: give a value, or leave it out"
    for key, interval in ranges().items():
        value = attrgetter(key)(config)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not _is_inside(number, interval):
                way_out = ", or null" if NoneType in alternatives(setting_types()[key]) else ""
                return f"{key} is {number}, it must be {_words(interval, number)}{way_out}"
    return _do_not_fit(config)


def _do_not_fit(config: Config) -> str | None:
    """Return which settings do not go together, or None."""
    loss, batch = config.loss, config.batch
    if config.clip.crop_padding >= min(config.model.image_size):
        return f"clip.crop_padding is {config.clip.crop_padding}, it must be less than model.image_size"
    if loss.metric == "sphereface" and (loss.angular_margin or 1) % 1:
        return f"loss.angular_margin is {loss.angular_margin}, SphereFace's must be a whole number"
    if batch.num_identities % loss.mining_groups:
        return (
            f"loss.mining_groups is {loss.mining_groups}, it must divide batch.num_identities "
            f"({batch.num_identities}): a part holds whole identities"
        )
    if not loss.cross_entropy_weight and (loss.metric == "none" or not loss.metric_weight):
        return "loss.cross_entropy_weight is 0 and there is no metric loss (loss.metric, loss.metric_weight): no loss"
    return None


def lacks_triplets(config: Config) -> str | None:
    """Return why BatchHard's loss would be 0 in every step, or None.

    A clip must meet another clip of its identity, and one of another identity.
    """
    loss, batch = config.loss, config.batch
    if loss.metric != "batch_hard" or not loss.metric_weight:
        return None
    way_out = "or take another loss (--loss.metric none for the cross-entropy alone)"
    if batch.num_tracklets < 2:
        what = f"batch.num_tracklets is {batch.num_tracklets}: BatchHard has no second clip of an identity to compare"
        return f"{what}, and its loss is 0 in every step: give at least 2, {way_out}"
    if batch.num_identities // loss.mining_groups < 2:
        parts = f" and loss.mining_groups {loss.mining_groups}" if loss.mining_groups > 1 else ""
        what = f"batch.num_identities is {batch.num_identities}{parts}: BatchHard has no clip of another identity"
        return f"{what} to compare, and its loss is 0 in every step: give at least 2 identities a part, {way_out}"
    return None


@cache
def setting_types() -> dict[str, Any]:
    """The type of each setting, by dotted key."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(Config).items():
        fields = get_type_hints(kind) if hasattr(kind, "__dataclass_fields__") else None
        types |= {name: kind} if fields is None else {f"{name}.{key}": of_field for key, of_field in fields.items()}
    return types


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a setting may have: of `int | None`, int and NoneType."""
    return get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)


def is_number(kind: Any) -> bool:
    """Return whether a setting is a number, or several of them."""
    return any(
        one in (int, float) or (get_origin(one) is tuple and get_args(one)[0] is int) for one in alternatives(kind)
    )


def _ends(interval: str) -> tuple[float, float]:
    smallest, largest = interval[1:-1].split(", ")
    return float(smallest), float(largest)


def _is_inside(number: float, interval: str) -> bool:
    smallest, largest = _ends(interval)
    above = number > smallest if interval[0] == "(" else number >= smallest
    return above and (number < largest if interval[-1] == ")" else number <= largest)


def _words(interval: str, number: float) -> str:
    """An interval as people say it; that no setting is larger than memory is said to those who try."""
    smallest, largest = _ends(interval)
    words = f"{'more than' if interval[0] == '(' else 'at least'} {smallest:g}"
    if math.isinf(largest):
        return words if number <= smallest else f"{words} and finite"
    if largest > 1024 and number < largest:
        return words
    return f"{words} and {'less than' if interval[-1] == ')' else 'at most'} {largest:.10g}"
