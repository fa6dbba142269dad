"""A model out of a description that somebody else may have made: all of it is checked before memory is taken."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mstat.errors import UserError
from mstat.model import MSTAT
from mstat.weights.rebuild import check_tensors, fill, model_config
from tests.mstat.training.test_task import SMALL


def shapes_of(model: MSTAT) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_a_description_becomes_its_settings() -> None:
    """Lists of JSON are tuples; what an older version did not write has its default."""
    description = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(SMALL).items()}
    assert model_config(description) == SMALL
    del description["init"]
    assert model_config(description).init is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown model settings: colour"),
        ({"width": "32"}, "model.width is '32', which is not a valid value"),
        ({"width": True}, "model.width is True, which"),
        ({"iap": "nowhere"}, "model.iap is 'nowhere', which"),
        ({"depths": [1, 1]}, r"model.depths is \[1, 1\], which"),
        ({"image_size": [16, 2.5]}, "model.image_size is"),
        ({"tps_probability": float("inf")}, "model.tps_probability is inf"),
        ({"num_heads": 0}, "model.num_heads is 0"),
    ],
)
def test_a_value_that_no_setting_has_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_config({**dataclasses.asdict(SMALL), **change})


def test_a_description_must_be_a_mapping() -> None:
    descriptions: tuple[Any, ...] = (None, [], "width: 3")
    for description in descriptions:
        with pytest.raises(UserError, match="it has no model settings"):
            model_config(description)


def test_tensors_are_compared_without_memory() -> None:
    """By name and shape, each difference named."""
    shapes = shapes_of(MSTAT(SMALL))
    model = check_tensors(SMALL, shapes)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    first = next(iter(shapes))
    for changed, message in (
        ({name: shape for name, shape in shapes.items() if name != first}, f"tensors are missing: {first}"),
        ({**shapes, "extra": (1,)}, "tensors that are not in this model: extra"),
        ({**shapes, first: (7,)}, rf"shapes differ: {first} \(7,\) \(expected "),
    ):
        with pytest.raises(UserError, match=message):
            check_tensors(SMALL, changed)


def test_a_model_larger_than_its_file_is_not_built() -> None:
    """A description of a million blocks would take minutes, even without memory."""
    with pytest.raises(UserError, match=r"model\.depths \[3000, 1, 1\] does not fit the 2 tensors in the file"):
        check_tensors(dataclasses.replace(SMALL, depths=(3_000, 1, 1)), {"a": (1,), "b": (1,)})


def test_a_filled_model_computes_the_same() -> None:
    torch.manual_seed(0)
    model = MSTAT(SMALL).eval()
    copy = fill(check_tensors(SMALL, shapes_of(model)), model.state_dict())
    frames_BTHWC = torch.randint(0, 256, (2, 3, *SMALL.image_size, 3), dtype=torch.uint8)
    with torch.no_grad():
        for ours, theirs in zip(copy(frames_BTHWC), model(frames_BTHWC), strict=True):
            assert torch.equal(ours, theirs)


def test_weights_that_cannot_be_used_are_refused() -> None:
    """Not finite, or a deviation of 0 that pixels would be divided by."""
    model = MSTAT(SMALL)
    for name, value, message in (
        ("stem.patch.bias", float("nan"), r"not finite: stem\.patch\.bias"),
        ("stem.pixel_std", 0.0, r"stem\.pixel_std must be more than 0"),
    ):
        tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        tensors[name].view(-1)[0] = value
        with pytest.raises(UserError, match=message):
            fill(check_tensors(SMALL, shapes_of(model)), tensors)
