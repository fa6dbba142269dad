"""Contact sheet of a tracklet: its frames in order of time on one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from shards.read import Reader
from shards.records import NO_OUTFIT, Role
from shards.text import printable

MARGIN, LINE = 8, 14  # pixels
MAX_ASPECT = 4  # width of a frame by its height; a wider one is squeezed
MAX_LETTERS = 200  # per line


def sheet(reader: Reader, i: int, *, columns: int = 12, max_frames: int = 96, height: int = 128) -> Image.Image:
    """Draw the numbered frames of tracklet `i` under its description; at most `max_frames`, evenly spaced."""
    tracklet = reader[i]
    shown = min(tracklet.num_frames, max_frames)
    numbers = np.arange(shown) * tracklet.num_frames // shown
    first = reader.frames(i, [0])
    width = min(max(24, round(height * first.shape[2] / first.shape[1])), MAX_ASPECT * height)
    frames_THWC = reader.frames(i, numbers, size=(height, width))
    columns = min(columns, shown)
    rows = -(-shown // columns)
    head = [
        f"{tracklet.key}   identity {tracklet.pid}   camera {tracklet.camid}"
        + (f"   outfit {tracklet.outfit}" if tracklet.outfit != NO_OUTFIT else ""),
        f"{tracklet.num_frames} frames" + (f", {shown} shown" if shown < tracklet.num_frames else ""),
        *_roles(reader, i),
    ]
    head = [printable(text)[:MAX_LETTERS] for text in head]
    cell_width, cell_height, top = width + MARGIN, height + LINE + MARGIN, MARGIN + LINE * len(head) + MARGIN
    size = (max(MARGIN + columns * cell_width, 8 * max(map(len, head))), top + rows * cell_height)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for line, text in enumerate(head):
        draw.text((MARGIN, MARGIN + line * LINE), text, fill="black")
    for place, (number, frame_HWC) in enumerate(zip(numbers.tolist(), frames_THWC, strict=True)):
        row, column = divmod(place, columns)
        left, upper = MARGIN + column * cell_width, top + row * cell_height
        picture.paste(Image.fromarray(frame_HWC), (left, upper))
        draw.text((left, upper + height), str(number), fill="gray")
    return picture


def _roles(reader: Reader, i: int) -> list[str]:
    """Return a line per protocol: the roles of the tracklet, and the number of splits with each."""
    lines = []
    roles = reader[i].roles
    for protocol in reader.protocols:
        counts: dict[str, int] = {}
        for split in protocol.splits:
            role = roles[protocol.name, split]
            name = " and ".join(flag.name.lower() for flag in Role(role) if flag.name) or "unused"
            counts[name] = counts.get(name, 0) + 1
        of = len(protocol.splits)
        message = ", ".join(name if of == 1 else f"{name} in {count} of {of} splits" for name, count in counts.items())
        lines.append(f"{protocol.name}: {message}")
    return lines


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    part = path.with_name(f"{path.name}.part")
    try:
        picture.save(part, "PNG")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
