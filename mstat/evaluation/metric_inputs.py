"""Arguments of `mstat.metrics` as tensors: labels, flags, pairs, features, distances; or a UserError.

An identity that turns into another one, or a NaN that equals a NaN, would be a wrong score without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError

AS_NUMBERS = "give each name a number: numpy.unique(names, return_inverse=True)[1] over queries and gallery together"


def labels(name: str, values: Any) -> Tensor:
    """Identities or cameras as int64 of one axis, on the CPU.

    Raises:
        UserError: If they are not whole numbers, each exact in its type, along one axis.
    """
    array = _one_axis(name, _array(name, values))
    if array.dtype.kind in "US":
        raise UserError(f"{name} are text, as {str(array[0])!r}; {AS_NUMBERS}")
    if array.dtype.kind == "b":
        raise UserError(f"{name} are True and False, which are no labels: give whole numbers")
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} are of type {array.dtype}: give whole numbers")
    if array.dtype.kind == "f":
        if (bad := ~np.isfinite(array)).any():
            raise UserError(f"{name}: {array[bad][0]} is no label; drop what has none, or give it a number of its own")
        if (bad := array != np.floor(array)).any():
            raise UserError(f"{name}: {array[bad][0]} is no whole number; give integers")
        limit = _whole_limit(values, array.dtype)
        if (bad := np.abs(array) >= limit).any():
            raise UserError(
                f"{name}: {array[bad][0]:.0f} may be rounded, since its type holds whole numbers below {limit:,.0f} "
                "only; give integers"
            )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{name}: {array.max()} is beyond int64; number the labels: {AS_NUMBERS}")
    return torch.from_numpy(array.astype(np.int64))


def flags(name: str, values: Any) -> Tensor:
    """Flags as bool of one axis, on the CPU.

    Raises:
        UserError: If they are not True and False, or 0 and 1, along one axis.
    """
    array = _one_axis(name, _array(name, values))
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise UserError(f"{name} must be True or False for each item of the gallery, or 1 or 0; not other values")
    return torch.from_numpy(array.astype(bool))


def index_pairs(name: str, values: Any) -> Tensor:
    """(N, 2) int64 indices, on the CPU.

    Raises:
        UserError: If they are not pairs of whole numbers.
    """
    array = _array(name, values)
    if array.size == 0:
        return torch.zeros(0, 2, dtype=torch.long)
    if array.ndim != 2 or array.shape[1] != 2:
        raise UserError(f"{name} has shape {array.shape}: give (query index, gallery index) pairs, of shape (N, 2)")
    return labels(f"indices of {name}", array.reshape(-1)).reshape(-1, 2)


def rank_numbers(values: Any) -> list[int]:
    """Ranks as whole numbers from 1 on.

    Raises:
        UserError: If they are something else.
    """
    if isinstance(values, int | np.integer) and not isinstance(values, bool):
        raise UserError(f"ranks={values!r}: give a sequence, as ranks=({values},)")
    result: list[int] = labels("ranks", values).tolist()
    if any(rank < 1 for rank in result):
        raise UserError(f"ranks={result}: a rank is 1 at least")
    return result


def numbers(name: str, values: Any) -> Tensor:
    """Features or distances as a floating tensor of two axes, where they are; without a graph.

    Integers that fp32 does not hold become fp64.

    Raises:
        UserError: If they are not real numbers in two axes.
    """
    tensor = values.detach() if isinstance(values, Tensor) else None
    if tensor is None or tensor.layout != torch.strided:
        tensor = torch.from_numpy(_native(_array(name, values, "biuf")))
    if tensor.is_complex():
        raise UserError(f"{name} are complex: give real numbers")
    if tensor.ndim != 2:
        raise UserError(f"{name} have shape {tuple(tensor.shape)}: give two axes, an item a row")
    if not tensor.is_floating_point():
        return tensor.to(torch.float32 if tensor.element_size() < 4 else torch.float64)
    return tensor


def _array(name: str, values: Any, kinds: str = "") -> np.ndarray[Any, Any]:
    """Return the values as an array; objects that are numbers become numbers."""
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
        tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
        return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.resolve_conj().numpy()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError(f"{name} are masked in places: drop these items")
    if isinstance(values, list | tuple) and any(isinstance(value, Tensor) for value in values):
        values = [value.detach().float().cpu().numpy() if _is_bfloat16(value) else _plain(value) for value in values]
    try:
        # Beside others, numbers would become text, and True would become 1.
        odd = (str, bytes, bool)
        mixed = isinstance(values, list | tuple) and len({isinstance(value, odd) for value in values}) > 1
        array = np.asarray(values, dtype=object if mixed else None)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name} are no array of numbers: {error}") from None
    if array.dtype.kind == "O":
        if array.ndim == 0:
            raise UserError(f"{name} are a {type(values).__name__}: give a list, an array or a tensor")
        for value in array.reshape(-1):
            if isinstance(value, str | bytes):
                raise UserError(f"{name}: {value!r} is text; {AS_NUMBERS}")
            if not isinstance(value, int | float | np.number) or isinstance(value, bool):
                raise UserError(f"{name}: {value!r} is no number; drop what has no label, or give it a number")
        if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in array.reshape(-1)):
            raise UserError(f"{name}: a number is beyond int64; number the labels: {AS_NUMBERS}")
        whole = all(isinstance(value, int | np.integer) for value in array.reshape(-1))
        array = array.astype(np.int64 if whole else np.float64)
    if kinds and array.dtype.kind not in kinds:
        raise UserError(f"{name} are of type {array.dtype}: give real numbers")
    return array


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16


def _one_axis(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.ndim == 1:
        return array
    if array.ndim == 0:
        raise UserError(f"{name} are a single value: give one axis, as [{array}]")
    advice = "flatten it" if max(array.shape) == array.size else "one label for each item"
    raise UserError(f"{name} have shape {array.shape}: give one axis, {advice}")


def _whole_limit(values: Any, dtype: np.dtype[Any]) -> float:
    """The number below which a floating type holds every whole number."""
    if isinstance(values, Tensor) and values.is_floating_point():
        return 2 / torch.finfo(values.dtype).eps
    return min(2 / float(np.finfo(dtype).eps), 2.0**53)


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In a type, an order of bytes and a memory that torch takes."""
    if (array.dtype.kind == "u" and array.dtype.itemsize > 1) or array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return array if array.flags.writeable else array.copy()
