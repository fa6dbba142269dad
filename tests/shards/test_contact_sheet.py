"""The contact sheet of a tracklet shows its frames in the order of time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

import shards
from shards.contact_sheet import LINE, MARGIN, save, sheet
from shards.read import Reader
from shards.records import Frame, Protocol, Role, Source, SourceTracklet
from shards.write import building, write

NUM_FRAMES = 10
HEADS = 3  # lines: the tracklet, its frames, its role


def grey(number: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((64, 32, 3), 20 * number, np.uint8), quality=95)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """One tracklet whose frames become brighter."""
    frames = lambda: (Frame(f"f{number}", partial(grey, number)) for number in range(NUM_FRAMES))  # noqa: E731
    tracklet = SourceTracklet("0001C1T0001", 1, 1, NUM_FRAMES, (Role.QUERY | Role.GALLERY,), frames)
    out = tmp_path_factory.mktemp("sheet") / "shards"
    with building(out) as folder:
        write(Source("greys", (Protocol("official"),), (tracklet,)), folder, workers=1)
    return shards.open(out)


def brightness(picture: Image.Image, columns: int, shown: int, height: int = 64) -> list[int]:
    """Of the middle of each frame on the sheet."""
    width, top = height // 2, MARGIN + LINE * HEADS + MARGIN
    places = [divmod(place, columns) for place in range(shown)]
    cells = [(MARGIN + column * (width + MARGIN), top + row * (height + LINE + MARGIN)) for row, column in places]
    pixels = [picture.getpixel((left + width // 2, upper + height // 2)) for left, upper in cells]
    return [pixel[0] for pixel in pixels if isinstance(pixel, tuple)]


def test_all_frames_in_rows(reader: Reader) -> None:
    picture = sheet(reader, 0, columns=4, height=64)
    assert brightness(picture, 4, NUM_FRAMES) == pytest.approx([20 * number for number in range(NUM_FRAMES)], abs=2)


def test_of_many_frames_some_are_shown_evenly(reader: Reader) -> None:
    picture = sheet(reader, 0, columns=12, max_frames=5, height=64)
    assert brightness(picture, 5, 5) == pytest.approx([0, 40, 80, 120, 160], abs=2)


def test_a_picture_is_written_whole(reader: Reader, tmp_path: Path) -> None:
    """As a PNG, whatever its name, with no half of it beside it."""
    picture = sheet(reader, 0)
    save(picture, tmp_path / "sheet.img")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.img"]
    with Image.open(tmp_path / "sheet.img") as stored:
        assert stored.format == "PNG"
        assert stored.size == picture.size
    with pytest.raises(FileNotFoundError):
        save(picture, tmp_path / "none" / "sheet.png")
