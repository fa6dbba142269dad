"""Frames side by side, and ranked galleries at one glance."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mstat.report import images


@pytest.mark.parametrize(("height", "width"), [(128, 64), (480, 200), (50, 80)])
def test_strips_keep_their_proportions(height: int, width: int) -> None:
    """A strip is shown 96 px high, at the width that its frames' proportions give; its file has the same ones."""
    jpeg, (shown_width, shown_height) = images.encode_strip(np.zeros((4, height, width, 3), dtype=np.uint8))
    assert shown_height == 96
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert abs(picture.width / picture.height - shown_width / shown_height) < 0.01
        assert picture.height == min(height, 192)
        gaps = 3 * images.GAP * 96 / picture.height
    assert abs(shown_width - gaps - 4 * 96 * width / height) < 2


def test_strip_shows_the_frames() -> None:
    """Frames stand side by side in their order and in their colours (RGB)."""
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=np.uint8)
    jpeg, _ = images.encode_strip(np.broadcast_to(colours[:, None, None], (3, 96, 48, 3)).copy())
    with Image.open(io.BytesIO(jpeg)) as picture:
        strip = np.asarray(picture.convert("RGB")).astype(int)
    for number, colour in enumerate(colours):
        assert np.abs(strip[48, number * 50 + 24] - colour).max() < 12


@pytest.mark.parametrize(("total", "wanted"), [(1, 8), (5, 8), (8, 8), (9, 8), (900, 8), (2, 4)])
def test_even_numbers(total: int, wanted: int) -> None:
    """Different frames of the tracklet in order, as many as there can be, from its first to its last."""
    numbers = images.even_numbers(total, wanted)
    assert len(numbers) == min(total, wanted)
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (0, total - 1)
    assert np.ptp(np.diff(numbers)) <= 1 if len(numbers) > 1 else True


def test_overview_shows_who_is_right() -> None:
    """A row a query: the query in grey, then its gallery in order, a whole green frame round the right, a broken red
    one round the wrong, a grey field for what cannot be read."""
    frame = np.full((128, 64, 3), 200, dtype=np.uint8)
    overview = images.encode_overview(
        [(frame, [(frame, False), (frame, True), (None, False)]), (frame, [(frame, True)])]
    )
    with Image.open(io.BytesIO(overview)) as picture:
        sheet = np.asarray(picture.convert("RGB")).astype(int)
    wide, tall = 72 + 2 * images.BORDER, images.CELL_HEIGHT + 2 * images.BORDER
    assert sheet.shape == (
        images.BAND + 2 * (tall + images.SPACE),
        2 * images.SPACE + 4 * (wide + images.SPACE),
        3,
    )
    top = images.BAND + images.BORDER // 2
    lefts = [images.SPACE + column * (wide + images.SPACE) + images.SPACE * (column > 0) for column in range(4)]
    edges = [sheet[top, left : left + wide] for left in lefts]
    for edge, colour, broken in zip(
        edges, (images.ASKED, images.WRONG, images.RIGHT, images.WRONG), (False, True, False, True), strict=True
    ):
        like = np.abs(edge - colour).max(axis=1) < 60
        assert like[:8].all()
        assert like.all() != broken
    middle = images.BAND + tall // 2
    assert [round(sheet[middle, left + wide // 2].mean(), -1) for left in lefts] == [200, 200, 200, 160]


def test_overview_of_nothing() -> None:
    """No frame that can be read is no error."""
    with Image.open(io.BytesIO(images.encode_overview([(None, [(None, False)])]))) as picture:
        assert picture.width > 0
