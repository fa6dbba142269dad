"""Encoded pictures: is it one, decode it, encode it. The one file that knows of JPEG and PNG.

`check` looks at header, size and end, which costs microseconds; damage in between shows nowhere but in the
entropy-coded data, which `check_pixels` decodes.
"""

from __future__ import annotations

import io
import re
import struct
from typing import Any, Literal

import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 64_000_000  # more than any camera of these data sets; a damaged header must not ask for all the memory
STRAY, MAX_STRAY = re.compile(r"(\d+) extraneous bytes"), 16  # libjpeg-turbo's message
JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

Uint8Array = np.ndarray[Any, np.dtype[np.uint8]]


def check(data: bytes) -> Literal["jpg", "png"]:
    """Return the file extension of a JPEG or PNG with its header and end; raise ValueError where it is neither."""
    if not data:
        raise ValueError("zero bytes")
    if data.startswith(JPEG_START):
        _check_size(*_jpeg_size(data))
        # Neither pair of bytes occurs within coded data. Most pictures end with the marker, and need no search.
        if not data.endswith(JPEG_END) and data.rfind(JPEG_END) < data.rfind(b"\xff\xda"):
            raise ValueError("cut off: no JPEG end marker")
        return "jpg"
    if data.startswith(PNG_SIGNATURE):
        _check_size(*_png_size(data))
        if PNG_END not in data:
            raise ValueError("cut off: no PNG end marker")
        return "png"
    raise ValueError(f"neither JPEG nor PNG (starts with {data[:4].hex(' ')})")


def check_pixels(data: bytes) -> None:
    """Decode a picture that `check` has passed; raise ValueError where its coded data is damaged."""
    if not data.startswith(JPEG_START):
        _decode_png(data)
        return
    try:
        simplejpeg.decode_jpeg(data, "GRAY", strict=True)
    except ValueError as error:
        # A few stray bytes before a marker, which some cameras leave, harm no pixel; many are what is left over when
        # the bytes before them were lost.
        stray = STRAY.search(str(error))
        if stray is None or int(stray[1]) > MAX_STRAY:
            raise ValueError(f"damaged ({error})") from error
        simplejpeg.decode_jpeg(data, "GRAY", strict=False)  # before the first scan even one is too many for it


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"its header says {height}x{width} pixels")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width from the frame header (SOF), found by walking the segments before the scan."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ValueError(f"damaged JPEG header at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in (0xC0, 0xC1, 0xC2):
            if position + 10 > len(data):
                break
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            if channels not in (1, 3):
                raise ValueError(f"a JPEG of {channels} channels; grey or colour is needed")
            return height, width
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise ValueError("a lossless or arithmetic JPEG; baseline or progressive is needed")
        if marker == 0xDA:
            raise ValueError("a JPEG scan without a frame header")
        if marker <= 0x01 or 0xD0 <= marker <= 0xD9:
            # Segments of no length, which no picture has here: to step over one as if it had one would be to read
            # another size than the decoder does.
            raise ValueError(f"damaged JPEG header at byte {position}")
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    raise ValueError("cut off inside the JPEG header")


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ValueError("cut off inside the PNG header")
    if data[24] == 16:
        raise ValueError("a PNG of 16 bits a channel; 8 are needed")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def decode(data: bytes, at_least: tuple[int, int] | None = None) -> Uint8Array:
    """Decode to uint8 RGB of shape H,W,3. Raises ValueError.

    Where a JPEG has twice the height and width that are asked for, or more, it is decoded at a fraction of its size,
    and no smaller than `at_least`: libjpeg-turbo does that in the frequency domain at a fraction of the cost.
    """
    if not data.startswith(JPEG_START):
        return _decode_png(data)
    _check_size(*_jpeg_size(data))
    height, width = at_least or (0, 0)
    # strict=False: like other readers, a stray byte between two segments is no reason to stop a training run.
    image = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2, strict=False)
    return np.asarray(image)


def _decode_png(data: bytes) -> Uint8Array:
    height, width = _png_size(data)
    _check_size(height, width)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != (width, height):  # a second header counts for Pillow
                raise ValueError(f"its second header says {picture.height}x{picture.width} pixels")
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # a broken chunk is a SyntaxError of Pillow's
        raise ValueError(f"damaged ({error})") from error


def resize(images_THW3: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize to `size` (H, W): bilinear, antialiased; the pictures themselves where they have that size.

    As Pillow does it, to one level of 256, in a quarter of the time; in integers, and so with the same bits everywhere.
    """
    if images_THW3.shape[1:3] == tuple(size):
        return images_THW3
    import torch  # a second, which those who have their frames at the right size do not wait for

    images_T3HW = torch.from_numpy(np.require(images_THW3, requirements=["C", "W"])).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(images_T3HW, tuple(size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def encode(image_HW3: Uint8Array, quality: int) -> bytes:
    """JPEG of an RGB picture, colour at half resolution, as nearly all JPEGs have it."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image_HW3), quality, "RGB", "420"))
