"""JPEGs of a tracklet's frames side by side, and of several ranked galleries.

Shapes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHOWN_HEIGHT = 96  # CSS pixels; stored at up to twice that for high-resolution screens
MOST_ASPECT = 4  # largest width over height of a frame; wider frames are squeezed
GAP = 2  # grey pixels between two frames of a strip
JPEG_QUALITY = 82

# Sizes of an overview, in pixels.
CELL_HEIGHT, BORDER, SPACE, BAND = 144, 4, 8, 22
RIGHT, WRONG, ASKED, PAPER, INK = (15, 122, 61), (194, 38, 28), (91, 99, 112), (255, 255, 255), (28, 32, 39)


def even_numbers(total: int, wanted: int) -> list[int]:
    """Return the numbers of at most `wanted` frames, evenly spaced over a tracklet of `total` frames."""
    return [int(number) for number in np.unique(np.linspace(0, total - 1, min(wanted, total)).round())]


def encode_strip(frames_THWC: np.ndarray, shown_height: int = SHOWN_HEIGHT) -> tuple[bytes, tuple[int, int]]:
    """Encode frames side by side as one JPEG; also return its (width, height) in CSS pixels."""
    from PIL import Image

    num_frames, height, width, _ = frames_THWC.shape
    scale = min(1.0, 2 * shown_height / height)
    tall = max(1, round(height * scale))
    wide = min(max(1, round(width * scale)), MOST_ASPECT * tall)
    strip = np.full((tall, num_frames * (wide + GAP) - GAP, 3), 128, dtype=np.uint8)
    for number, frame in enumerate(frames_THWC):
        left = number * (wide + GAP)
        strip[:, left : left + wide] = Image.fromarray(frame).resize((wide, tall), Image.Resampling.BILINEAR)
    return _encode(strip), (round(strip.shape[1] * shown_height / tall), shown_height)


def encode_overview(rows: Sequence[tuple[np.ndarray | None, Sequence[tuple[np.ndarray | None, bool]]]]) -> bytes:
    """Encode ranked galleries as one JPEG, with a row for each query, as papers show them.

    Args:
        rows: A frame (H, W, C) of the query, and the gallery's frames, nearest first, each with whether it is a true
            match (solid green border) or not (dashed red border). None leaves a grey field.
    """
    from PIL import Image, ImageDraw, ImageFont

    every = [frame for query, ranked in rows for frame in (query, *(result for result, _ in ranked))]
    frames = [frame for frame in every if frame is not None]
    aspect = float(np.median([frame.shape[1] / frame.shape[0] for frame in frames])) if frames else 0.5
    wide, tall = max(1, round(CELL_HEIGHT * min(aspect, MOST_ASPECT))), CELL_HEIGHT
    step_x, step_y = wide + 2 * BORDER + SPACE, tall + 2 * BORDER + SPACE
    columns = 1 + max((len(ranked) for _, ranked in rows), default=0)
    sheet = Image.new("RGB", (columns * step_x + 2 * SPACE, BAND + len(rows) * step_y), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)

    def left(column: int) -> int:
        return SPACE + column * step_x + (SPACE if column else 0)  # a wider gap after the query

    def place(frame: np.ndarray | None, row: int, column: int, colour: tuple[int, int, int]) -> None:
        x, y = left(column), BAND + row * step_y
        box = (x, y, x + wide + 2 * BORDER, y + tall + 2 * BORDER)
        draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=colour)
        if colour == WRONG:
            for at in range(box[0] + 16, box[2], 24):
                draw.rectangle((at, box[1], at + 8, box[3] - 1), fill=PAPER)
            for at in range(box[1] + 16, box[3], 24):
                draw.rectangle((box[0], at, box[2] - 1, at + 8), fill=PAPER)
        inside = (box[0] + BORDER, box[1] + BORDER)
        if frame is None:
            draw.rectangle((*inside, inside[0] + wide - 1, inside[1] + tall - 1), fill=(160, 160, 160))
        else:
            sheet.paste(Image.fromarray(frame).resize((wide, tall), Image.Resampling.BILINEAR), inside)

    for column in range(columns):
        middle = left(column) + wide // 2 + BORDER
        draw.text((middle, BAND // 2), str(column) if column else "query", fill=INK, font=font, anchor="mm")
    for row, (query, ranked) in enumerate(rows):
        place(query, row, 0, ASKED)
        for column, (frame, right) in enumerate(ranked, start=1):
            place(frame, row, column, RIGHT if right else WRONG)
    return _encode(np.asarray(sheet))


def _encode(picture_HWC: np.ndarray) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture_HWC), quality=JPEG_QUALITY, colorspace="RGB")
