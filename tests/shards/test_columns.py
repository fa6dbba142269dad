"""Columns of the index as NumPy arrays, without pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shards.columns import to_numpy
from tests.conftest import PROJECT


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int32(), pa.uint32(), pa.int64()], ids=str)
def test_the_array_is_that_of_pyarrow(kind: pa.DataType) -> None:
    """Values and type, of an array, of a slice of one, of several chunks, and of no row at all."""
    array = pa.array([3, 1, 2, 0], kind)
    for column in (array, array.slice(1, 2), pa.chunked_array([array, array.slice(2)]), array.slice(4)):
        expected = column.to_numpy()
        assert to_numpy(column).dtype == expected.dtype
        np.testing.assert_array_equal(to_numpy(column), expected)


def test_a_reader_does_not_import_pandas(tiny_shards: Path) -> None:
    """A process that opens a set and decodes frames of it starts without pandas, which is installed."""
    lines = ["import sys, pandas", "print('pandas' in sys.modules)"]
    opened = ["import sys, shards", f"reader = shards.open({str(tiny_shards)!r})"]
    opened += ["reader.frames(0, [0]), reader[0], reader.roles()", "print('pandas' in sys.modules)"]
    for code, expected in ((lines, "True"), (opened, "False")):
        command = [sys.executable, "-c", "\n".join(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
        assert done.stdout.strip() == expected
