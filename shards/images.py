"""Encoded pictures: is it one, decode it upright, encode it. The one file that knows of picture formats.

Shards hold JPEG and PNG; a source may have BMP, TIFF and WebP besides, and pictures that lie on their side and say so
(EXIF). `check` looks at header, size and end, which costs microseconds for a JPEG; damage in between shows nowhere but
in the coded pixels, which `decode` and `check_pixels` refuse where the decoder notices it.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from shards.records import DataError

MAX_PIXELS = 4096 * 2160  # a whole 4K picture; a person has far fewer, and a header must not ask for all the memory
MORE_PIXELS = "if its pictures are that large, set MSTAT_MAX_PIXELS"
MAX_SCANS = 100  # of a progressive JPEG, which has about 10; each costs as much as the whole picture
STRAY, MAX_STRAY = re.compile(r"(\d+) extraneous bytes"), 16  # libjpeg-turbo's message
# Warnings of libjpeg-turbo that change no pixel; all its others are of pixels that it made up.
HARMLESS = re.compile("unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters for sequential")
JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")  # without one of them a PNG is upright
STORED = ("jpg", "png")  # what shards hold
EXTENSIONS = {"PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")  # Pillow's, of 8 bits a channel and less
# What makes a picture of each EXIF orientation upright: (transpose, flip its rows, flip its columns), in this order.
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Uint8Array = np.ndarray[Any, np.dtype[np.uint8]]


class Kind(NamedTuple):
    """The kind of a picture by its header: the extension of its format, and its EXIF orientation (1: upright)."""

    extension: str
    orientation: int


def max_pixels() -> int:
    """The most pixels that a picture may have: $MSTAT_MAX_PIXELS, or MAX_PIXELS."""
    text = os.environ.get("MSTAT_MAX_PIXELS")
    if text is None:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and 0 < int(text[:19]) <= 2**31):
        raise DataError(f"MSTAT_MAX_PIXELS={text}: not a number of pixels, 1 to {2**31:,}")
    return int(text)


def max_bytes() -> int:
    """The most bytes that the file of such a picture may have: those of its pixels, and as much again as a head."""
    return 4 * max_pixels() + (1 << 20)


def check(data: bytes) -> Kind:
    """Return the kind of a picture with its header and end.

    Raises ValueError where it is none, or one that has no right RGB of 8 bits: more bits, CMYK, several pictures in a
    file, transparent pixels.
    """
    if not data:
        raise ValueError("zero bytes")
    if data.startswith(JPEG_START):
        height, width, has_exif = _jpeg_header(data)
        _check_size(height, width)
        # Neither pair of bytes occurs within coded data. Most pictures end with the marker, and need no search.
        if not data.endswith(JPEG_END) and data.rfind(JPEG_END) < data.rfind(b"\xff\xda"):
            raise ValueError("cut off: no JPEG end marker")
        return Kind("jpg", _orientation(data) if has_exif else 1)
    if data.startswith(PNG_SIGNATURE):
        _check_size(*_png_size(data))
        if PNG_END not in data:
            raise ValueError("cut off: no PNG end marker")
        with _opened(data) as picture:
            picture.verify()  # the checksums, at which decoding does not look
    with _opened(data) as picture:
        _check_size(picture.height, picture.width)
        if (count := getattr(picture, "n_frames", 1)) > 1:
            raise ValueError(f"{count} pictures in one file; save each as a file of its own")
        _check_colours(picture)
        return Kind(EXTENSIONS[str(picture.format)], _orientation(data))


def _check_colours(picture: Image.Image) -> None:
    bits = getattr(picture, "tag_v2", {}).get(258, (8,))  # BitsPerSample of a TIFF
    if picture.mode not in MODES or max(bits) > 8:
        raise ValueError(f"pixels of {max(bits)} bits, mode {picture.mode}; grey or RGB of 8 bits a channel is needed")
    has_alpha = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    if has_alpha and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError("transparent pixels; put the picture on a background first")


def check_pixels(data: bytes) -> None:
    """Decode a picture that `check` has passed; raise ValueError where its coded data is damaged."""
    if data.startswith(JPEG_START):
        _decode_jpeg(data, "GRAY")
    else:
        _decode_other(data)


def _check_size(height: int, width: int) -> None:
    if height * width <= 0:
        raise ValueError(f"its header says {height}x{width} pixels")
    if height * width > max_pixels():
        raise ValueError(f"its header says {height}x{width} pixels, more than {max_pixels():,}; {MORE_PIXELS}")


def _jpeg_header(data: bytes) -> tuple[int, int, bool]:
    """Return height and width as the decoder reads them, and whether EXIF or XMP may hold an orientation.

    The decoder reads the headers of more kinds of JPEG than it decodes, and reports neither the bits of a channel nor
    the number of scans nor EXIF. For these the segments up to the frame header are walked.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ValueError(f"damaged JPEG header, or cut off inside it ({error})") from error
    if colours in ("CMYK", "YCCK"):
        raise ValueError(f"a {colours} JPEG; grey or colour is needed")
    position, has_exif = 2, False
    while (marker := data[position + 1]) not in FRAME_MARKERS:
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if data[position] != 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD9:  # no segment of a length
            raise ValueError(f"damaged JPEG header at byte {position}")
        has_exif |= marker == 0xE1
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    if marker not in (0xC0, 0xC1, 0xC2):
        raise ValueError("a lossless or arithmetic JPEG; baseline or progressive is needed")
    if data[position + 4] != 8:
        raise ValueError(f"a JPEG of {data[position + 4]} bits a channel; 8 are needed")
    if marker == 0xC2 and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"a progressive JPEG of {scans:,} scans; {MAX_SCANS} at most")
    return height, width, has_exif


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ValueError("cut off inside the PNG header")
    if data[24] == 16:
        raise ValueError("a PNG of 16 bits a channel; 8 are needed")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _orientation(data: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    if data.startswith(PNG_SIGNATURE) and not any(sign in data for sign in PNG_EXIF):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever broken EXIF leads Pillow to; the picture is judged by its pixels
        return 1
    return int(orientation) if orientation in TURNS else 1


def turn(image_HWC: Uint8Array, transpose: bool, flip_rows: bool, flip_columns: bool) -> Uint8Array:
    """Transpose a picture, then flip the order of its rows and columns; a view."""
    if transpose:
        image_HWC = image_HWC.swapaxes(0, 1)
    return image_HWC[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def decode(data: bytes, at_least: tuple[int, int] | None = None) -> Uint8Array:
    """Decode to uint8 RGB of shape H,W,3, upright by its EXIF orientation. Raises ValueError.

    Where a JPEG has twice the height and width that are asked for, or more, it is decoded at a fraction of its size,
    and no smaller than `at_least`: libjpeg-turbo does that in the frequency domain at a fraction of the cost.
    """
    if not data.startswith(JPEG_START):
        return _decode_other(data)
    height, width, has_exif = _jpeg_header(data)
    _check_size(height, width)
    turns = TURNS[_orientation(data) if has_exif else 1]
    height, width = (at_least or (0, 0))[:: -1 if turns[0] else 1]
    return turn(_decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2), *turns)


def _decode_jpeg(data: bytes, colours: str, **options: int) -> Uint8Array:
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=True, **options))
    except ValueError as error:
        # A few stray bytes before a marker, which some cameras leave, harm no pixel; many are what is left over when
        # the bytes before them were lost.
        stray = STRAY.search(str(error))
        if not (HARMLESS.search(str(error)) or (stray and int(stray[1]) <= MAX_STRAY)):
            raise ValueError(f"damaged ({error})") from error
    return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=False, **options))


def _decode_other(data: bytes) -> Uint8Array:
    if is_png := data.startswith(PNG_SIGNATURE):
        _check_size(*_png_size(data))
    with _opened(data) as picture:
        if is_png and (picture.height, picture.width) != _png_size(data):  # a second header counts for Pillow
            raise ValueError(f"its second header says {picture.height}x{picture.width} pixels")
        _check_size(picture.height, picture.width)
        image_HW3 = np.array(picture.convert("RGB"))
        is_tiff = picture.format == "TIFF"  # Pillow turns it itself, and nothing else
    return image_HW3 if is_tiff else turn(image_HW3, *TURNS[_orientation(data)])


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """A picture in Pillow's hands; whatever it finds wrong there is a ValueError."""
    try:
        with Image.open(io.BytesIO(data), formats=list(EXTENSIONS)) as picture:
            yield picture
    except (ValueError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        start = data[:4].hex(" ")
        raise ValueError(f"neither JPEG nor PNG, nor a whole BMP, TIFF or WebP (starts with {start})") from error
    except Exception as error:  # Pillow raises most of what Python has (a broken chunk is a SyntaxError)
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


def encode_png(image_HW3: Uint8Array) -> bytes:
    """PNG of an RGB picture: not a pixel is lost."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW3)).save(buffer, "PNG")
    return buffer.getvalue()
