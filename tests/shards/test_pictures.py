from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from shards import pictures
from tests.shards.trees import picture


def encode(image: np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


RAMP = np.stack(np.broadcast_arrays(np.arange(60)[:, None] * 4, np.arange(40)[None] * 6, 90), -1).astype(np.uint8)
JPEG = picture(0, (256, 128))  # as large as those of the data sets: in tiny ones zeros often pass for codes
PNG = encode(RAMP, "png")
SCAN = JPEG.index(b"\xff\xda")
HALF = (SCAN + len(JPEG)) // 2


def zeroed(data: bytes, start: int, stop: int) -> bytes:
    return data[:start] + bytes(stop - start) + data[stop:]


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        JPEG + b"\0\0\0",
        JPEG + b"a camera's own notes",
        JPEG[:-2] + b"\0\0" + JPEG[-2:],
        encode(RAMP, "jpeg", progressive=True),
        encode(RAMP[..., 0], "jpeg"),
        PNG,
    ],
    ids=["jpeg", "padded", "trailer", "stray bytes", "progressive", "grey", "png"],
)
def test_whole_pictures_pass_and_decode(data: bytes) -> None:
    """Whole JPEGs and PNGs, grey and progressive ones and such with stray bytes too, pass and decode to RGB."""
    assert pictures.check(data) == ("png" if data is PNG else "jpg")
    assert pictures.decode(data).shape[2] == 3


def huge_jpeg() -> bytes:
    data = bytearray(JPEG)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # height and width
    return bytes(data)


def huge_png() -> bytes:
    return PNG[:16] + (100_000).to_bytes(4, "big") * 2 + PNG[24:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>not found</html>", "neither JPEG nor PNG"),
        (JPEG[:-1], "end marker"),
        (JPEG[: len(JPEG) // 2], "cut off"),
        (JPEG[:30], "cut off inside the JPEG header"),
        (JPEG[:HALF] + JPEG[-2:], "damaged .*premature end"),
        (zeroed(JPEG, HALF, len(JPEG) - 2), "damaged"),
        (zeroed(JPEG, HALF, HALF + 64), "damaged"),
        (JPEG[:SCAN] + b"\0\0" + JPEG[SCAN:-9], "end marker"),
        (JPEG[:SCAN] + b"\0\0" + JPEG[SCAN:], "2 extraneous bytes before marker 0xda"),
        (JPEG[:3] + b"\0" * 100, "header"),
        (PNG[:-8], "end marker"),
        (PNG[:20], "PNG header"),
        (PNG[:60] + PNG[-12:], "damaged"),
        (zeroed(PNG, 50, 80), "damaged"),
        (encode(RAMP[..., 0].astype(np.uint16) * 200, "png"), "16 bits"),
        (huge_png(), "100000x100000"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    """Empty, foreign, cut off, damaged or absurdly large data is refused, also where its head and end are whole."""
    with pytest.raises(ValueError, match=reason):
        _ = pictures.check(data) and pictures.check_pixels(data)


def test_png_decodes_exactly() -> None:
    """A PNG gives back the very pixels, in the order red, green, blue."""
    np.testing.assert_array_equal(pictures.decode(PNG), RAMP)


@pytest.mark.parametrize("size", [(60, 40), (30, 20), (29, 19), (15, 10), (45, 31), (128, 64)])
def test_resized_decode_equals_decode_then_resize(size: tuple[int, int]) -> None:
    """Decoding at a size gives that size, and the picture that a full decode and a good resize give, to 2 levels."""
    data = encode(RAMP, "jpeg", quality=98, subsampling=0)
    got = pictures.resize(pictures.decode(data, size)[None], size)[0]
    wanted = Image.fromarray(RAMP).resize(size[::-1], Image.Resampling.BILINEAR)
    assert got.shape == (*size, 3)
    assert np.abs(got.astype(int) - np.asarray(wanted).astype(int)).mean() < 2


@pytest.mark.parametrize("size", [(224, 112), (112, 224), (97, 31), (300, 140), (256, 128), (1, 1)])
def test_resize_is_pillows(size: tuple[int, int]) -> None:
    """Noise, smaller and larger: Pillow's pixels to one level of 256; a batch as each alone."""
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 128, 3), np.uint8)
    images.flags.writeable = False
    got = pictures.resize(images, size)
    wanted = np.stack([Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR) for image in images])
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - wanted.astype(int)).max() <= 1
    alone = [pictures.resize(image[None, ::-1], size)[0] for image in images]
    np.testing.assert_array_equal(pictures.resize(images[:, ::-1], size), alone)


def hidden_jpeg(marker: bytes) -> bytes:
    """65,000 x 65,000 behind a marker of no length: who takes the next bytes for one jumps to a modest header."""
    frame = JPEG.index(b"\xff\xc0")
    modest = JPEG[frame : frame + 19]
    start = JPEG[:frame] + marker + modest[:5] + 2 * (65_000).to_bytes(2, "big") + JPEG[frame + 9 :]
    return start[: frame + 2 + 0xFFC0].ljust(frame + 2 + 0xFFC0, b"\0") + modest + JPEG[-2:]


def hidden_png(side: int) -> bytes:
    """A modest header, and a second one, which counts for Pillow."""
    chunk = b"IHDR" + side.to_bytes(4, "big") * 2 + PNG[24:29]
    return PNG[:33] + PNG[8:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + PNG[33:]


@pytest.mark.parametrize("marker", [b"\xff\x01", b"\xff\xd0", b"\xff\xd7"])
def test_a_jpeg_has_the_size_that_the_decoder_sees(marker: bytes) -> None:
    """A header behind markers that the decoder reads in another way than we do is refused."""
    data = hidden_jpeg(marker)
    assert simplejpeg.decode_jpeg_header(data)[:2] == (65_000, 65_000)
    for refuse in (pictures.check, pictures.decode):
        with pytest.raises(ValueError, match="damaged JPEG header"):
            refuse(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_png_has_the_size_that_its_header_says(side: int) -> None:
    """A second header makes it none, of whatever size."""
    for refuse in (pictures.check_pixels, pictures.decode):
        with pytest.raises(ValueError, match=r"second header says|decompression bomb"):
            refuse(hidden_png(side))


@pytest.mark.parametrize("data", [huge_png(), huge_jpeg()], ids=["png", "jpeg"])
def test_an_absurd_size_in_a_header_is_never_decoded(data: bytes) -> None:
    """Bytes that ask for gigabytes are refused by the header alone, also by the decoder of the reader."""
    for refuse in (pictures.check, pictures.decode):
        with pytest.raises(ValueError, match="its header says"):
            refuse(data)
