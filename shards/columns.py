"""Columns of the index as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Return a column of numbers without nulls: a read-only view of its memory, or a copy if it has several chunks.

    pyarrow's own `to_numpy` imports pandas, which takes half a second in every process that opens a set.
    """
    return np.from_dlpack(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
