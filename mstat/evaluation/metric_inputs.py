"""Conversion of the arguments of `mstat.metrics` to tensors: labels, flags, pairs, features, distances.

Anything ambiguous is refused with a UserError: a label that is rounded to another identity, or a NaN that counts as a
label, would silently give a wrong score.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError

AS_NUMBERS = "give each name a number: numpy.unique(names, return_inverse=True)[1] over queries and gallery together"


def labels(name: str, values: Any) -> Tensor:
    """Convert identities or cameras to int64 along one axis, on the CPU.

    Raises:
        UserError: If the values are not whole numbers along one axis, or their type may have rounded them.
    """
    array = _one_axis(name, _array(name, values))
    if array.dtype.kind in "US":
        raise UserError(f"{name} are text, such as {str(array[0])!r}; {AS_NUMBERS}")
    if array.dtype.kind == "b":
        raise UserError(f"{name} are True and False: give whole numbers")
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} are of type {array.dtype}: give whole numbers")
    if array.dtype.kind == "f":
        if (bad := ~np.isfinite(array)).any():
            raise UserError(f"{name}: {array[bad][0]} is not a label; drop unlabelled items, or number them")
        if (bad := array != np.floor(array)).any():
            raise UserError(f"{name}: {array[bad][0]} is not a whole number; give integers")
        limit = _whole_limit(values, array.dtype)
        if (bad := np.abs(array) >= limit).any():
            raise UserError(
                f"{name}: {array[bad][0]:.0f} may be rounded, since its type is exact only below {limit:,.0f}; "
                "give integers"
            )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{name}: {array.max()} is beyond int64; number the labels: {AS_NUMBERS}")
    return torch.from_numpy(array.astype(np.int64))


def flags(name: str, values: Any) -> Tensor:
    """Convert flags to bool along one axis, on the CPU.

    Raises:
        UserError: If the values are not True and False, or 0 and 1, along one axis.
    """
    array = _one_axis(name, _array(name, values))
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise UserError(f"{name} must be True or False, or 1 or 0, for each gallery item")
    return torch.from_numpy(array.astype(bool))


def index_pairs(name: str, values: Any) -> Tensor:
    """Convert index pairs to (N, 2) int64, on the CPU.

    Raises:
        UserError: If the values are not pairs of whole numbers.
    """
    array = _array(name, values)
    if array.size == 0:
        return torch.zeros(0, 2, dtype=torch.long)
    if array.ndim != 2 or array.shape[1] != 2:
        raise UserError(f"{name} has shape {array.shape}: give (query index, gallery index) pairs, of shape (N, 2)")
    return labels(f"indices of {name}", array.reshape(-1)).reshape(-1, 2)


def rank_numbers(values: Any) -> list[int]:
    """Convert ranks to a list of integers.

    Raises:
        UserError: If the values are not whole numbers of at least 1.
    """
    if isinstance(values, int | np.integer) and not isinstance(values, bool):
        raise UserError(f"ranks={values!r}: give a sequence, such as ranks=({values},)")
    result: list[int] = labels("ranks", values).tolist()
    if any(rank < 1 for rank in result):
        raise UserError(f"ranks={result}: a rank is at least 1")
    return result


def numbers(name: str, values: Any) -> Tensor:
    """Convert features or distances to a floating-point matrix on their device, detached from autograd.

    Integers of 32 and 64 bits become fp64, because fp32 would round them.

    Raises:
        UserError: If the values are not real numbers along two axes.
    """
    tensor = values.detach() if isinstance(values, Tensor) else None
    if tensor is None or tensor.layout != torch.strided:
        tensor = torch.from_numpy(_native(_array(name, values, "biuf")))
    if tensor.is_complex():
        raise UserError(f"{name} are complex: give real numbers")
    if tensor.ndim != 2:
        raise UserError(f"{name} have shape {tuple(tensor.shape)}: give a matrix with one row for each item")
    if not tensor.is_floating_point():
        return tensor.to(torch.float32 if tensor.element_size() < 4 else torch.float64)
    return tensor


def _array(name: str, values: Any, kinds: str = "") -> np.ndarray[Any, Any]:
    """Convert values to an array; an object array of numbers becomes a numeric one."""
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
        tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
        return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.resolve_conj().numpy()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError(f"{name} have masked items: drop these items")
    if isinstance(values, list | tuple) and any(isinstance(value, Tensor) for value in values):
        values = [value.detach().float().cpu().numpy() if _is_bfloat16(value) else _plain(value) for value in values]
    try:
        # In mixed lists, NumPy would turn numbers into text, and True into 1.
        odd = (str, bytes, bool)
        mixed = isinstance(values, list | tuple) and len({isinstance(value, odd) for value in values}) > 1
        array = np.asarray(values, dtype=object if mixed else None)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name} are not an array of numbers: {error}") from None
    if array.dtype.kind == "O":
        if array.ndim == 0:
            raise UserError(f"{name} are a {type(values).__name__}: give a list, an array or a tensor")
        for value in array.reshape(-1):
            if isinstance(value, str | bytes):
                raise UserError(f"{name}: {value!r} is text; {AS_NUMBERS}")
            if not isinstance(value, int | float | np.number) or isinstance(value, bool):
                raise UserError(f"{name}: {value!r} is not a number; drop unlabelled items, or number them")
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
    """Return the number below which a floating-point type holds every whole number."""
    if isinstance(values, Tensor) and values.is_floating_point():
        return 2 / torch.finfo(values.dtype).eps
    return min(2 / float(np.finfo(dtype).eps), 2.0**53)


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert an array to a type, byte order and memory layout that torch accepts."""
    if (array.dtype.kind == "u" and array.dtype.itemsize > 1) or array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return array if array.flags.writeable else array.copy()
