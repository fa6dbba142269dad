"""Parts of saved features; test_saved_features.py and test_embed_set.py write them on several ranks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mstat.evaluation import feature_writer
from mstat.evaluation.ranking import gallery_slices


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """The error has the path of the file; /dev/full is a disk without room."""
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        feature_writer._write(Path("/dev/full"), {"features": torch.zeros(2, 2)})


def test_parts_depend_on_no_rank() -> None:
    """Pieces of the same parts, for any slices."""
    for world_size in (1, 2, 3, 7):
        slices = gallery_slices(10_000, world_size, 64)
        parts = feature_writer._pieces(slices, 10_000)
        assert [(pieces[0][0], pieces[-1][1]) for pieces in parts] == [(0, 4096), (4096, 8192), (8192, 10_000)]
        assert all(a[1] == b[0] for pieces in parts for a, b in pairwise(pieces))
