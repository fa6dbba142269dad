"""Variables of MATLAB files: matrices of whole numbers, of which no other variable and no other file is read.

A file of some kilobytes can unpack to gigabytes, nest cells until the reader breaks, or name other files (HDF5) to take
the values from. So what the file says of a variable is looked at before its values are.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from shards.guarded import read_regular
from shards.records import DataError

HDF5 = b"MATLAB 7.3 MAT-file"
MAX_VALUES = 10_000_000  # of a variable; the largest that data sets have is of 12,180 rows of 4
MAX_BYTES = 8 * MAX_VALUES + (1 << 20)  # of a variable, or of the file
NUMBERS = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
MATRIX, COMPRESSED = 14, 15  # kinds of data elements of a v5 file
V5_HEADER = 128
HEAD_BYTES = 4096  # of a variable: its name stands in them
FILTERS = ((), ("deflate",), ("shuffle", "deflate"))  # of HDF5; MATLAB writes no others

IntArray = np.ndarray[Any, np.dtype[np.int64]]


class _NoNumbersError(Exception):
    """A variable that can be read, and is not what is wanted."""


def load_mat(path: Path, key: str, home: str, other_key: str | None = None) -> IntArray:
    """A variable of whole numbers in a MATLAB file of any version, as MATLAB shows it; `home` says where it is from.

    `other_key` is taken where there is no `key`.

    Raises DataError where the file is missing or damaged, or has no such variable.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing; {home}")
    keys = [key] if other_key is None else [key, other_key]
    try:
        data = read_regular(path, MAX_BYTES)
        names, key, values = _load_hdf5(path, keys) if data.startswith(HDF5) else _load_older(data, keys)
    except DataError:
        raise
    except _NoNumbersError as error:
        raise DataError(f"{path}: {error}; take the original") from error
    except Exception as error:  # whatever the damaged bytes lead the readers to
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: no MATLAB file that can be read ({reason}); take the original") from error
    if values is None:
        there = ", ".join(names) or "nothing"
        raise DataError(f"{path}: no variable {' or '.join(keys)} in it (there is: {there}); take the original")
    try:
        with np.errstate(invalid="ignore"):
            numbers = values.astype(np.int64)
        if not np.array_equal(numbers, values):  # fractions and NaN would become other numbers in silence
            raise ValueError("fractions or NaN")
        return numbers
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {key} holds no whole numbers ({error}); take the original") from error


def _choose(keys: list[str], names: list[str]) -> str | None:
    return next((key for key in keys if key in names), None)


def _check_size(key: str, size: int) -> None:
    if size > MAX_VALUES:
        raise ValueError(f"{key} has {size:,} values; {MAX_VALUES:,} at most")


def _load_older(data: bytes, keys: list[str]) -> tuple[list[str], str, np.ndarray | None]:
    """Names of the variables, and the first of `keys` with its values. v5 and v4."""
    import scipy.io

    if 0 not in data[:4]:  # else v4, which has no compression
        data = _unpack(data, keys)
    file: Any = io.BytesIO(data)  # which scipy takes, and its stubs do not
    shapes = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(file)}
    key = _choose(keys, list(shapes))
    if key is None:
        return list(shapes), keys[0], None
    shape, kind = shapes[key]
    if kind not in NUMBERS:
        raise _NoNumbersError(f"{key} holds no whole numbers (it is of the kind {kind})")
    _check_size(key, int(np.prod([int(n) for n in shape], dtype=object)))
    return list(shapes), key, np.asarray(scipy.io.loadmat(file, variable_names=[key])[key])


def _unpack(data: bytes, keys: list[str]) -> bytes:
    """A v5 file with the variables of `keys` unpacked, and the heads of its others as they are.

    scipy unpacks as much as there is.
    """
    order = "<" if data[126:128] == b"IM" else ">"
    parts = [data[:V5_HEADER]]
    position = V5_HEADER
    while position + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        end = position + 8 + size
        element = data[position:end]
        if kind == COMPRESSED:
            unpacking = zlib.decompressobj()
            head = unpacking.decompress(element[8:], HEAD_BYTES)
            if any(key.encode() in head for key in keys):
                rest = unpacking.decompress(unpacking.unconsumed_tail, MAX_BYTES)
                if unpacking.unconsumed_tail or not unpacking.eof:
                    raise ValueError(f"a variable is cut off, or unpacks to more than {MAX_BYTES:,} bytes")
                element = head + rest
        if struct.unpack_from(f"{order}I", element)[0] == MATRIX:
            _check_parts(element, order)
        parts.append(element)
        position = end
    return b"".join(parts)


def _check_parts(element: bytes, order: str) -> None:
    """Raise ValueError where a part of a variable says that it is larger than the variable. scipy takes its word."""
    position = 8
    while position + 8 <= len(element):
        kind, size = struct.unpack_from(f"{order}II", element, position)
        position += 8 + (0 if kind >> 16 else size + -size % 8)  # a small part lies in its own tag
    if position > len(element) + 7:
        raise ValueError("a variable is cut off")


def _load_hdf5(path: Path, keys: list[str]) -> tuple[list[str], str, np.ndarray | None]:
    """Load variables of a v7.3 file. MATLAB stores matrices by columns and HDF5 by rows, so each comes transposed."""
    import h5py

    with h5py.File(path, "r") as file:
        names = [name for name in file if not name.startswith("#")]
        key = _choose(keys, names)
        if key is None:
            return names, keys[0], None
        if not isinstance(file.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{key} is a link")
        values = file[key]
        if not isinstance(values, h5py.Dataset) or values.dtype.kind not in "iufb":
            raise _NoNumbersError(f"{key} holds no whole numbers (it is no matrix of numbers)")
        _check_size(key, int(np.prod(values.shape, dtype=object)))
        if values.external or values.is_virtual:
            raise ValueError(f"{key} lies in another file")
        if values.chunks is not None:
            _check_chunks(key, values)
        return names, key, values[()].T


def _check_chunks(key: str, values: Any) -> None:
    """Raise ValueError where a chunk does not unpack to the size of a chunk. HDF5 unpacks as much as there is."""
    properties = values.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    names = tuple({1: "deflate", 2: "shuffle"}.get(number, str(number)) for number in filters)
    if names not in FILTERS:
        raise ValueError(f"{key} is stored with filters that MATLAB does not use")
    size = int(np.prod(values.chunks, dtype=object)) * values.dtype.itemsize
    if size > MAX_BYTES:
        raise ValueError(f"{key} has chunks of {size:,} bytes")
    for number in range(values.id.get_num_chunks() if "deflate" in names else 0):
        skipped, packed = values.id.read_direct_chunk(values.id.get_chunk_info(number).chunk_offset)
        if skipped & 1 << names.index("deflate"):  # HDF5 stores a chunk as it is that would become larger
            continue
        unpacking = zlib.decompressobj()
        if len(unpacking.decompress(packed, size + 1)) > size:
            raise ValueError(f"{key} has a chunk that unpacks to more than {size:,} bytes")
