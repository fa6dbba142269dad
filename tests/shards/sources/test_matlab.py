"""MATLAB files of small size that ask for much: memory, other files, deep nests."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from shards.records import DataError
from shards.sources.matlab import V5_HEADER, load_mat

GOOD = np.arange(12).reshape(3, 4)
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.mat"


def v5(**variables: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables)  # type: ignore[arg-type] # scipy-stubs know no files in memory
    return file.getvalue()


def compressed(*elements: bytes) -> bytes:
    """A v5 file of elements, packed."""
    packed = (zlib.compress(element, 1) for element in elements)
    return v5()[:V5_HEADER] + b"".join(struct.pack("<II", 15, len(data)) + data for data in packed)


def hdf5(path: Path, write: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        write(file)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file")


def refusal(path: Path, key: str = "x") -> str:
    """Return the error, which is one line and takes bounded memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as error:
            load_mat(path, key, "home")
        assert tracemalloc.get_traced_memory()[1] < 300 * MIB
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_version_is_read(path: Path) -> None:
    """v4, v5, v5 packed, v7.3 in one piece, in chunks, and packed as MATLAB does; other variables are not looked at."""
    for options in ({"format": "4"}, {}, {"do_compression": True}):
        scipy.io.savemat(path, {"other": np.zeros((2, 2)), "x": GOOD}, **options)
        assert np.array_equal(load_mat(path, "x", "home"), GOOD)
    packings: tuple[dict[str, Any], ...] = (
        {},
        {"chunks": (2, 2)},
        {"chunks": (2, 2), "compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
    )
    for packing in packings:
        hdf5(path, partial(h5py.File.create_dataset, name="x", data=GOOD.T.astype(float), **packing))
        assert np.array_equal(load_mat(path, "x", "home"), GOOD)
    with pytest.raises(DataError, match=r"no variable y \(only x\)"):
        load_mat(path, "y", "home")


def test_packed_gigabytes_are_not_unpacked(path: Path) -> None:
    """Neither those of the variable, nor of another one; a variable beside them is read."""
    matrix = v5(x=GOOD)[V5_HEADER:]
    bomb = matrix.replace(b"x", b"y", 1) + bytes(90 * MIB)
    path.write_bytes(compressed(bomb, matrix))
    assert path.stat().st_size < MIB
    assert np.array_equal(load_mat(path, "x", "home"), GOOD)
    assert "unpacks to more than" in refusal(path, "y")


@pytest.mark.parametrize("pack", [False, True])
def test_damage_anywhere_is_refused_or_read(path: Path, pack: bool) -> None:
    """Bytes that are missing or changed never crash the reader; the matrix keeps its shape or is refused."""
    whole = v5(x=GOOD)
    good = compressed(whole[V5_HEADER:]) if pack else whole
    spoilt = [good[:at] + good[at + size :] for size in (1, 4, 8) for at in range(V5_HEADER - 4, len(good))]
    spoilt += [good[:at] + bytes([byte]) + good[at + 1 :] for byte in (0, 5, 16, 255) for at in range(124, len(good))]
    refused = 0
    for data in spoilt:
        path.write_bytes(data)
        try:
            assert load_mat(path, "x", "home").size == GOOD.size
        except DataError:
            refused += 1
    assert refused > len(spoilt) // 3


@pytest.mark.parametrize("pack", [False, True])
def test_a_matrix_that_claims_gigabytes_is_refused(path: Path, pack: bool) -> None:
    """In its shape or in the size of its data, of which the file has nothing."""
    whole = v5(x=GOOD.astype(float))
    dims = whole.index(struct.pack("<ii", 3, 4))
    for at, value in ((dims, 2**31 - 1), (dims + 4, 2**29), (whole.index(struct.pack("<II", 9, 96)) + 4, 2**32 - 8)):
        data = whole[:at] + struct.pack("<I", value) + whole[at + 4 :]
        path.write_bytes(compressed(data[V5_HEADER:]) if pack else data)
        refusal(path)


def test_cells_structures_and_sparse_matrices_are_refused(path: Path) -> None:
    """A nest of cells would break the reader; none holds whole numbers."""
    nest: Any = np.zeros(1)
    for _ in range(30):
        outer = np.empty((1, 1), dtype=object)
        outer[0, 0] = nest
        nest = outer
    from scipy.sparse import csc_matrix

    for value in (nest, {"a": 1}, csc_matrix((5, 5)), "text"):
        path.write_bytes(v5(x=value))
        assert "x does not hold whole numbers (its type is" in refusal(path)


def test_hdf5_leads_to_no_other_file(path: Path, tmp_path: Path) -> None:
    """External links, datasets stored elsewhere, and virtual ones."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(96)))
    hdf5(tmp_path / "other.mat", lambda file: file.create_dataset("x", data=GOOD))
    layout = h5py.VirtualLayout((3, 4), "i8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.mat"), "x", (3, 4))
    for write, reason in (
        (lambda file: file.__setitem__("x", h5py.ExternalLink(str(tmp_path / "other.mat"), "x")), "is a link"),
        (lambda file: file.__setitem__("x", h5py.SoftLink("/y")), "is a link"),
        (
            lambda file: file.create_dataset("x", (3, 4), "i8", external=[(str(secret), 0, 96)]),
            "is stored in another file",
        ),
        (lambda file: file.create_virtual_dataset("x", layout), "is stored in another file"),
        (lambda file: file.create_group("x"), "not a matrix of numbers"),
        (lambda file: file.create_dataset("x", data=[b"text"]), "not a matrix of numbers"),
    ):
        hdf5(path, write)
        assert reason in refusal(path)


def test_hdf5_unpacks_no_gigabytes(path: Path) -> None:
    """Shapes of nothing, chunks as large as a disk, and chunks that unpack to more than a chunk."""

    def overfull(file: h5py.File) -> None:
        values = file.create_dataset("x", (64, 64), "i8", chunks=(64, 64), compression="gzip")
        values.id.write_direct_chunk((0, 0), zlib.compress(bytes(60 * MIB), 1))

    for write, reason in (
        (lambda file: file.create_dataset("x", (1 << 20, 1 << 20), "i8", chunks=(64, 64)), "at most"),
        (lambda file: file.create_dataset("x", (1 << 40,), "i1", chunks=(1 << 20,)), "at most"),
        (
            lambda file: file.create_dataset("x", (9, 9), "i8", chunks=(1 << 13, 1 << 13), maxshape=(None, None)),
            "has chunks of",
        ),
        (overfull, "unpacks to more than"),
        (lambda file: file.create_dataset("x", data=GOOD, compression="lzf"), "filters that MATLAB does not use"),
    ):
        hdf5(path, write)
        assert path.stat().st_size < MIB
        assert reason in refusal(path)


def test_other_files_are_refused(path: Path) -> None:
    """A pipe, nothing, text, and a file larger than any of these."""
    for data in (b"", b"x", b"MATLAB 5.0", b"MATLAB 7.3 MAT-file", bytes(4000)):
        path.write_bytes(data)
        refusal(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than" in refusal(path)
    path.unlink()
    os.mkfifo(path)
    assert "missing" in refusal(path)
