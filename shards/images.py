"""Check, decode and encode pictures. No other module knows picture formats.

Shards hold JPEG and PNG. A source may also hold BMP, TIFF and WebP, and pictures with an EXIF orientation. `check`
looks at header, size and end, which takes microseconds for a JPEG. Damage between them shows only when the pixels are
decoded: `decode` and `check_pixels` refuse the damage that the decoder notices.
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

MAX_PIXELS = 4096 * 2160  # a 4K picture, far larger than a person; a header must not claim all the memory
MORE_PIXELS = "if its pictures are that large, set MSTAT_MAX_PIXELS"
MAX_SCANS = 100  # of a progressive JPEG, which has about 10; decoding each takes as long as the whole picture
# The warnings of libjpeg-turbo (simplejpeg 1.9) that affect no pixel. All others mean that it made up pixels.
#   Corrupt JPEG data: 2 extraneous bytes before marker 0xd0
#   Invalid SOS parameters for sequential JPEG
STRAY, MAX_STRAY = re.compile(r"(\d+) extraneous bytes"), 16
HARMLESS = "Invalid SOS parameters for sequential"
JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")  # a PNG without any of them is upright
STORED = ("jpg", "png")  # formats in shards
EXTENSIONS = {"PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")  # Pillow's modes of at most 8 bits per channel
# The steps that turn a picture of each EXIF orientation upright: (transpose, flip rows, flip columns), in this order.
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
    """Format of a picture, as a file extension, and its EXIF orientation (1: upright)."""

    extension: str
    orientation: int


def max_pixels() -> int:
    """Return the largest number of pixels that a picture may have: $MSTAT_MAX_PIXELS, or MAX_PIXELS."""
    text = os.environ.get("MSTAT_MAX_PIXELS")
    if text is None:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and 0 < int(text[:19]) <= 2**31):
        raise DataError(f"MSTAT_MAX_PIXELS={text}: not a number of pixels, 1 to {2**31:,}")
    return int(text)


def max_bytes() -> int:
    """Return the largest size of a picture's file: 4 bytes per pixel, and 1 MiB for its header."""
    return 4 * max_pixels() + (1 << 20)


def check(data: bytes) -> Kind:
    """Check header, size and end of a picture; return its kind.

    Raises ValueError if `data` is not a whole picture, or if 8-bit RGB cannot represent it: more bits, CMYK, several
    pictures in a file, transparent pixels.
    """
    if not data:
        raise ValueError("zero bytes")
    if data.startswith(JPEG_START):
        height, width, has_exif = _jpeg_header(data)
        _check_size(height, width)
        # Coded data contains neither marker. Most pictures end with the end marker, which saves the search.
        if not data.endswith(JPEG_END) and data.rfind(JPEG_END) < data.rfind(b"\xff\xda"):
            raise ValueError("cut off: no JPEG end marker")
        return Kind("jpg", _orientation(data) if has_exif else 1)
    if data.startswith(PNG_SIGNATURE):
        _check_size(*_png_size(data))
        if PNG_END not in data:
            raise ValueError("cut off: no PNG end marker")
        with _opened(data) as picture:
            picture.verify()  # compares the checksums, which decoding ignores
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
    """Decode a picture that `check` has passed; raise ValueError if its coded data is damaged."""
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
        if data[position] != 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD9:  # no marker, or one without a length
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
    """Return the EXIF orientation, 1 to 8; 1 if the picture has none, or an unreadable one."""
    if data.startswith(PNG_SIGNATURE) and not any(sign in data for sign in PNG_EXIF):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many types on broken EXIF, which does not affect the pixels
        return 1
    return int(orientation) if orientation in TURNS else 1


def turn(image_HWC: Uint8Array, transpose: bool, flip_rows: bool, flip_columns: bool) -> Uint8Array:
    """Transpose a picture, then flip its rows and columns; return a view."""
    if transpose:
        image_HWC = image_HWC.swapaxes(0, 1)
    return image_HWC[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def decode(data: bytes, at_least: tuple[int, int] | None = None) -> Uint8Array:
    """Decode to upright uint8 RGB of shape H,W,3. Raises ValueError.

    A JPEG of at least twice the height and width `at_least` is decoded at a fraction of its size, but no smaller than
    `at_least`: libjpeg-turbo scales in the frequency domain, which takes a fraction of the time.
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
        # Some cameras leave a few stray bytes before a marker, which affect no pixel. Many stray bytes mean that bytes
        # before them were lost.
        stray = STRAY.search(str(error))
        if not (HARMLESS in str(error) or (stray and int(stray[1]) <= MAX_STRAY)):
            raise ValueError(f"damaged ({error})") from error
    return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=False, **options))


def _decode_other(data: bytes) -> Uint8Array:
    if is_png := data.startswith(PNG_SIGNATURE):
        _check_size(*_png_size(data))
    with _opened(data) as picture:
        if is_png and (picture.height, picture.width) != _png_size(data):  # Pillow takes the second header
            raise ValueError(f"its second header says {picture.height}x{picture.width} pixels")
        _check_size(picture.height, picture.width)
        image_HW3 = np.array(picture.convert("RGB"))
        is_tiff = picture.format == "TIFF"  # the only format that Pillow itself turns upright
    return image_HW3 if is_tiff else turn(image_HW3, *TURNS[_orientation(data)])


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open a picture with Pillow; every error of Pillow becomes a ValueError."""
    try:
        with Image.open(io.BytesIO(data), formats=list(EXTENSIONS)) as picture:
            yield picture
    except (ValueError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        start = data[:4].hex(" ")
        raise ValueError(f"neither JPEG nor PNG, nor a whole BMP, TIFF or WebP (starts with {start})") from error
    except Exception as error:  # Pillow raises exceptions of many types (SyntaxError on a broken chunk)
        raise ValueError(f"damaged ({error})") from error


def resize(images_THW3: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize to `size` (H, W), bilinear and antialiased; return pictures of that size unchanged.

    The result differs from Pillow's by at most one level of 256 and takes a quarter of the time. The arithmetic is in
    integers, so that every machine computes the same bits.
    """
    if images_THW3.shape[1:3] == tuple(size):
        return images_THW3
    import torch  # takes a second to import; frames of the right size do not need it

    images_T3HW = torch.from_numpy(np.require(images_THW3, requirements=["C", "W"])).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(images_T3HW, tuple(size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def encode(image_HW3: Uint8Array, quality: int) -> bytes:
    """Encode an RGB picture as JPEG, with colour at half resolution, as in nearly all JPEGs."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image_HW3), quality, "RGB", "420"))


def encode_png(image_HW3: Uint8Array) -> bytes:
    """Encode an RGB picture as PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW3)).save(buffer, "PNG")
    return buffer.getvalue()
