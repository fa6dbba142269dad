"""Read matrices of whole numbers from MATLAB files, without reading other variables or other files.

A file of some kilobytes can unpack to gigabytes, nest cells until the reader crashes, or refer to other files (HDF5).
So the description of a variable is checked before its values are read.
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
MAX_VALUES = 10_000_000  # of a variable; the largest in a data set has 12,180 rows of 4
MAX_BYTES = 8 * MAX_VALUES + (1 << 20)  # of a variable, or of the file
NUMBERS = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
MATRIX, COMPRESSED = 14, 15  # types of data elements in a v5 file
V5_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}  # types of numbers
V5_NUMBERS = range(6, 16)  # classes of matrices: double to uint64
V5_OPAQUE = (16, 17)
V5_OTHERS = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
V5_HEADER = 128
HEAD_BYTES = 4096  # the first bytes of a variable, which contain its name
FILTERS = ((), ("deflate",), ("shuffle", "deflate"))  # of HDF5; MATLAB uses no others

IntArray = np.ndarray[Any, np.dtype[np.int64]]


class _NoNumbersError(Exception):
    """A readable variable that is not a matrix of numbers."""


def load_mat(path: Path, key: str, home: str, other_key: str | None = None) -> IntArray:
    """Return a variable of whole numbers from a MATLAB file of any version, in MATLAB's order of dimensions.

    Args:
        home: Where to find the file, for messages.
        other_key: Name of the variable if there is no `key`.

    Raises DataError if the file is missing or damaged, or has no such variable.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing; {home}")
    keys = [key] if other_key is None else [key, other_key]
    try:
        data = read_regular(path, MAX_BYTES)
        names, key, values = _load(path, data, keys)
    except DataError:
        raise
    except _NoNumbersError as error:
        raise DataError(f"{path}: {error}; take the original") from error
    except Exception as error:  # the readers raise many types on damaged bytes
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable MATLAB file ({reason}); take the original") from error
    if values is None:
        there = ", ".join(names) or "nothing"
        raise DataError(f"{path}: no variable {' or '.join(keys)} (only {there}); take the original")
    try:
        with np.errstate(invalid="ignore"):
            numbers = values.astype(np.int64)
        if not np.array_equal(numbers, values):  # the conversion changes fractions and NaN silently
            raise ValueError("fractions or NaN")
        return numbers
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {key} does not hold whole numbers ({error}); take the original") from error


def _load(path: Path, data: bytes, keys: list[str]) -> tuple[list[str], str, np.ndarray | None]:
    if data.startswith(HDF5):
        return _load_hdf5(path, keys)
    return _load_v4(data, keys) if 0 in data[:4] else _load_v5(data, keys)


def _choose(keys: list[str], names: list[str]) -> str | None:
    return next((key for key in keys if key in names), None)


def _check_size(key: str, size: int) -> None:
    if size > MAX_VALUES:
        raise ValueError(f"{key} has {size:,} values; at most {MAX_VALUES:,} are read")


def _load_v4(data: bytes, keys: list[str]) -> tuple[list[str], str, np.ndarray | None]:
    """Load from a v4 file: the names of its variables, and name and values of the first of `keys`."""
    import scipy.io

    file: Any = io.BytesIO(data)  # accepted by scipy, but not by its stubs
    shapes = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(file)}
    key = _choose(keys, list(shapes))
    if key is None:
        return list(shapes), keys[0], None
    shape, kind = shapes[key]
    if kind not in NUMBERS:
        raise _NoNumbersError(f"{key} does not hold whole numbers (its type is {kind})")
    _check_size(key, int(np.prod([int(n) for n in shape], dtype=object)))
    return list(shapes), key, np.asarray(scipy.io.loadmat(file, variable_names=[key])[key])


def _load_v5(data: bytes, keys: list[str]) -> tuple[list[str], str, np.ndarray | None]:
    """Load from a v5 file as `_load_v4` does.

    scipy's reader crashes on some damaged files, and unpacks variables to any size. Matrices of numbers are simple:
    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, "Level 5 MAT-File Format".
    """
    order = {b"IM": "<", b"MI": ">"}[data[126:128]]
    matrices: dict[str, tuple[bytes, Any]] = {}  # the first bytes of each, and what unpacks the rest
    position = V5_HEADER
    while position + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        element = data[position : position + 8 + size]
        if len(element) < 8 + size:
            raise ValueError("a variable is cut off")
        position += 8 + size
        unpacking = None
        if kind == COMPRESSED:
            unpacking = zlib.decompressobj()
            element = unpacking.decompress(element[8:], HEAD_BYTES)
        if struct.unpack_from(f"{order}I", element)[0] == MATRIX:
            matrices.setdefault(_Matrix(element, order).name, (element, unpacking))
    key = _choose(keys, list(matrices))
    if key is None:
        return list(matrices), keys[0], None
    element, unpacking = matrices[key]
    if unpacking is not None:
        element += unpacking.decompress(unpacking.unconsumed_tail, MAX_BYTES)
        if unpacking.unconsumed_tail or not unpacking.eof:
            raise ValueError(f"a variable is cut off, or unpacks to more than {MAX_BYTES:,} bytes")
    return list(matrices), key, _Matrix(element, order).values()


class _Matrix:
    """A matrix of a v5 file: flags, dimensions and name, then its numbers.

    Raises struct.error, ValueError or LookupError if a part is missing, cut off or odd.
    """

    def __init__(self, element: bytes, order: str) -> None:
        self.element, self.order = element, order
        self.position = 8
        flags = np.frombuffer(self._part()[1], f"{order}u4")
        self.kind, self.is_complex = int(flags[0]) & 0xFF, bool(flags[0] & 0x800)
        self.name = ""
        if self.kind in V5_OPAQUE:  # these have no dimensions, and their name is elsewhere
            return
        self.shape = [int(n) for n in np.frombuffer(self._part()[1], f"{order}i4")]
        self.name = self._part()[1].decode("ascii")

    def values(self) -> np.ndarray:
        if self.kind not in V5_NUMBERS or self.is_complex:
            what = "complex" if self.is_complex else V5_OTHERS.get(self.kind, "unknown")
            raise _NoNumbersError(f"{self.name} does not hold whole numbers (its type is {what})")
        if len(self.shape) < 2 or min(self.shape) < 0:
            raise ValueError(f"{self.name} has the dimensions {self.shape[:10]}")
        size = int(np.prod(self.shape, dtype=object))
        _check_size(self.name, size)
        kind, data = self._part()
        numbers = np.frombuffer(data, f"{self.order}{V5_STORED[kind]}")
        if len(numbers) != size:
            raise ValueError(f"{self.name} has {len(numbers):,} values, not {size:,}")
        return numbers.reshape(self.shape, order="F")

    def _part(self) -> tuple[int, bytes]:
        """Return type and bytes of the next part; parts of at most 4 bytes are stored in their tag."""
        kind, size = struct.unpack_from(f"{self.order}II", self.element, self.position)
        start, length = self.position + 8, size + -size % 8
        if kind >> 16:
            kind, size, start, length = kind & 0xFFFF, kind >> 16, self.position + 4, 0
            if size > 4:
                raise ValueError("a small part of a variable is too large")
        data = self.element[start : start + size]
        if len(data) < size:
            raise ValueError("a variable is cut off")
        self.position += 8 + length
        return kind, data


def _load_hdf5(path: Path, keys: list[str]) -> tuple[list[str], str, np.ndarray | None]:
    """Load from a v7.3 file as `_load_v4` does. HDF5 stores rows, MATLAB columns: transpose the values."""
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
            raise _NoNumbersError(f"{key} does not hold whole numbers (it is not a matrix of numbers)")
        _check_size(key, int(np.prod(values.shape, dtype=object)))
        if values.external or values.is_virtual:
            raise ValueError(f"{key} is stored in another file")
        if values.chunks is not None:
            _check_chunks(key, values)
        return names, key, values[()].T


def _check_chunks(key: str, values: Any) -> None:
    """Raise ValueError if a chunk unpacks to more than the size of a chunk. HDF5 would unpack it to any size."""
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
        if skipped & 1 << names.index("deflate"):  # HDF5 stores incompressible chunks unpacked
            continue
        unpacking = zlib.decompressobj()
        if len(unpacking.decompress(packed, size + 1)) > size:
            raise ValueError(f"{key} has a chunk that unpacks to more than {size:,} bytes")
