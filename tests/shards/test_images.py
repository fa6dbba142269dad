from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from shards import images
from shards.records import DataError
from tests.shards.trees import picture


def encode(image: np.ndarray, form: str, mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(buffer, form, **options)
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
    """Intact JPEGs and PNGs, also grey, progressive and with stray bytes, pass and decode to RGB."""
    assert images.check(data) == ("png" if data is PNG else "jpg", 1)
    assert images.decode(data).shape[2] == 3


def huge_jpeg() -> bytes:
    data = bytearray(JPEG)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = 2 * (65_000).to_bytes(2, "big")  # height and width
    return bytes(data)


def twelve_bits() -> bytes:
    data = bytearray(JPEG)
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = 0xC1, 12  # extended sequential, and its bits
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
        (JPEG[:30], "JPEG header, or cut off"),
        (JPEG[:HALF] + JPEG[-2:], "damaged .*premature end"),
        (zeroed(JPEG, HALF, len(JPEG) - 2), "damaged"),
        (zeroed(JPEG, HALF, HALF + 64), "damaged"),
        (JPEG[:SCAN] + b"\0\0" + JPEG[SCAN:-9], "damaged JPEG header"),
        (JPEG[:SCAN] + b"\0\0" + JPEG[SCAN:], "2 extraneous bytes before marker 0xda"),
        (JPEG[:3] + b"\0" * 100, "header"),
        (PNG[:-8], "end marker"),
        (PNG[:20], "PNG header"),
        (PNG[:60] + PNG[-12:], "damaged"),
        (zeroed(PNG, 50, 80), "damaged"),
        (encode(RAMP[..., 0].astype(np.uint16) * 200, "png"), "16 bits"),
        (huge_png(), "100000x100000"),
        (huge_jpeg(), "its header says 65000x65000"),
        (huge_jpeg().replace(b"\xfd\xe8", b"\xff\xff"), "damaged JPEG header"),  # more than libjpeg reads
        (twelve_bits(), "a JPEG of 12 bits a channel"),
        (JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1), "lossless or arithmetic"),
        (encode(np.zeros((8, 8, 4), np.uint8), "jpeg", mode="CMYK"), "a CMYK JPEG"),
        (encode(RAMP, "webp")[:-40], "neither|damaged"),
        (encode(RAMP, "bmp")[:-40], "damaged"),
        (encode(RAMP, "tiff", compression="tiff_lzw")[:-40], "nor a whole BMP, TIFF or WebP"),
        (encode(RAMP[..., 0].astype(np.float32), "tiff"), "mode F"),
        (encode(RAMP[..., 0].astype(np.uint16) * 200, "tiff"), "16 bits"),
        (encode(RAMP, "tiff", save_all=True, append_images=[Image.fromarray(RAMP)]), "2 pictures in one file"),
        (encode(RAMP, "webp", save_all=True, append_images=[Image.fromarray(255 - RAMP)]), "2 pictures in one file"),
        (encode(np.dstack([RAMP, RAMP[..., 1]]), "png"), "transparent pixels"),
        (encode(np.dstack([RAMP, RAMP[..., 1]]), "webp"), "transparent pixels"),
        (PNG[:50] + bytes([PNG[50] ^ 1]) + PNG[51:], "damaged"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    """Empty, foreign, cut off, damaged or absurdly large data is refused, also where its head and end are whole."""
    with pytest.raises(ValueError, match=reason):
        check_whole(data)


def check_whole(data: bytes) -> None:
    images.check(data)
    images.check_pixels(data)


FORMATS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 95, "subsampling": 0},
    "png": {},
    "tiff": {},
    "webp": {"lossless": True},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(form: str, orientation: int) -> None:
    """All eight orientations, in each format with EXIF: Pillow's upright pixels; also at a fraction of the size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(RAMP, form, exif=exif.tobytes(), **FORMATS[form])
    with Image.open(io.BytesIO(data)) as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture))
    assert wanted.shape == ((60, 40, 3) if orientation < 5 else (40, 60, 3))
    assert images.check(data).orientation == orientation
    np.testing.assert_array_equal(images.decode(data), wanted)
    small = images.decode(data, (wanted.shape[0] // 2, wanted.shape[1] // 2))
    small = images.resize(small[None], (wanted.shape[0] // 2, wanted.shape[1] // 2))[0]
    assert np.abs(small.astype(int) - wanted[::2, ::2]).mean() < 6


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0", b"Exif\0\0" + b"\xff" * 40, b"other notes", 9, 0])
def test_broken_exif_is_no_orientation(exif: bytes | int) -> None:
    """EXIF that cannot be read, or holds no orientation that there is, leaves the picture as it is."""
    if isinstance(exif, int):
        made = Image.Exif()
        made[0x0112] = exif
        exif = made.tobytes()
    data = JPEG[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + JPEG[2:]
    assert images.check(data).orientation == 1
    np.testing.assert_array_equal(images.decode(data), images.decode(JPEG))


@pytest.mark.parametrize("form", ["bmp", "tiff", "webp", "png", "gif palette"])
def test_other_formats_decode_exactly(form: str) -> None:
    """BMP, TIFF and WebP give their pixels, as do a picture of a palette and one whose alpha hides nothing."""
    opaque = np.dstack([RAMP, np.full(RAMP.shape[:2], 255, np.uint8)])
    data = {
        "bmp": encode(RAMP, "bmp"),
        "tiff": encode(RAMP, "tiff", compression="tiff_lzw"),
        "webp": encode(opaque, "webp", lossless=True),
        "png": encode(opaque, "png"),
        "gif palette": encode(RAMP // 128 * 255, "png", mode="P"),
    }[form]
    images.check(data)
    np.testing.assert_array_equal(images.decode(data), RAMP // 128 * 255 if form == "gif palette" else RAMP)


@pytest.mark.parametrize("start", [HALF, len(JPEG) - 300])
def test_no_half_of_a_picture_is_decoded(start: int) -> None:
    """If the decoder makes up pixels for lost ones, `decode` refuses, at every size: nothing grey is used."""
    for size in (None, (64, 32)):
        with pytest.raises(ValueError, match="damaged"):
            images.decode(JPEG[:start] + JPEG[-2:], size)


def test_png_decodes_exactly() -> None:
    """A PNG gives back the very pixels, in the order red, green, blue."""
    np.testing.assert_array_equal(images.decode(PNG), RAMP)


@pytest.mark.parametrize("size", [(60, 40), (30, 20), (29, 19), (15, 10), (45, 31), (128, 64)])
def test_resized_decode_equals_decode_then_resize(size: tuple[int, int]) -> None:
    """Decoding at a size gives that size, and the picture that a full decode and a good resize give, to 2 levels."""
    data = encode(RAMP, "jpeg", quality=98, subsampling=0)
    got = images.resize(images.decode(data, size)[None], size)[0]
    wanted = Image.fromarray(RAMP).resize(size[::-1], Image.Resampling.BILINEAR)
    assert got.shape == (*size, 3)
    assert np.abs(got.astype(int) - np.asarray(wanted).astype(int)).mean() < 2


@pytest.mark.parametrize("size", [(224, 112), (112, 224), (97, 31), (300, 140), (256, 128), (1, 1)])
def test_resize_is_pillows(size: tuple[int, int]) -> None:
    """Noise, smaller and larger: Pillow's pixels to one level of 256; a batch as each alone."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 256, 128, 3), np.uint8)
    frames.flags.writeable = False
    got = images.resize(frames, size)
    pictures = [Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR) for image in frames]
    wanted = np.stack([np.asarray(picture) for picture in pictures])
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - wanted.astype(int)).max() <= 1
    alone = [images.resize(image[None, ::-1], size)[0] for image in frames]
    np.testing.assert_array_equal(images.resize(frames[:, ::-1], size), alone)


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
    for refuse in (images.check, images.decode):
        with pytest.raises(ValueError, match="damaged JPEG header"):
            refuse(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_png_has_the_size_that_its_header_says(side: int) -> None:
    """A second header makes it none, of whatever size."""
    for refuse in (images.check_pixels, images.decode):
        with pytest.raises(ValueError, match=r"second header says|decompression bomb"):
            refuse(hidden_png(side))


@pytest.mark.parametrize("data", [huge_png(), huge_jpeg()], ids=["png", "jpeg"])
def test_an_absurd_size_in_a_header_is_never_decoded(data: bytes) -> None:
    """Bytes that ask for gigabytes are refused by the header alone, also by the decoder of the reader."""
    for refuse in (images.check, images.decode):
        with pytest.raises(ValueError, match="its header says"):
            refuse(data)


def test_the_largest_picture_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few megapixels, more than any person has; a larger header is refused before anything is decoded, and the
    message names the setting."""
    large = io.BytesIO()
    Image.new("L", (4000, 3000)).save(large, "PNG")
    for data in (large.getvalue(), picture(1, (3000, 4000))):
        for use in (images.check, images.decode):
            with pytest.raises(ValueError, match=r"3000x4000 pixels, more than 8,847,360; .* set MSTAT_MAX_PIXELS"):
                use(data)
        monkeypatch.setenv("MSTAT_MAX_PIXELS", "12000000")
        assert images.decode(data).shape == (3000, 4000, 3)
        monkeypatch.delenv("MSTAT_MAX_PIXELS")
    for text in ("", "0", "-1", "1e6", "many", "9" * 5000):
        monkeypatch.setenv("MSTAT_MAX_PIXELS", text)
        with pytest.raises(DataError, match="MSTAT_MAX_PIXELS="):
            images.decode(picture(1))


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    """Each scan of a progressive JPEG costs as much as the whole picture."""
    file = io.BytesIO()
    Image.fromarray(images.decode(picture(1))).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert images.check(data).extension == "jpg"
    last = data[data.rindex(b"\xff\xda") : -2]
    bomb = data[:-2] + last * 1000 + data[-2:]
    for use in (images.check, images.decode):
        with pytest.raises(ValueError, match="scans; 100 at most"):
            use(bomb)


def test_a_jpeg_of_odd_sampling_is_refused() -> None:
    """Its header says what the decoder does not take: that is found without decoding."""
    data = picture(1)
    at = data.index(b"\xff\xc0") + 11  # sampling of the first channel
    with pytest.raises(ValueError, match="damaged"):
        images.check(data[:at] + b"\x37" + data[at + 1 :])


RESTARTS = encode(images.decode(JPEG), "jpeg", restart_marker_rows=1)
RESTART = RESTARTS.index(b"\xff\xd0")
HARMLESS = {
    "Invalid SOS parameters for sequential": (JPEG, JPEG[: SCAN + 12] + b"\x3e" + JPEG[SCAN + 13 :]),  # 62, not 63
    "2 extraneous bytes": (RESTARTS, RESTARTS[:RESTART] + b"\0\0" + RESTARTS[RESTART:]),
}


@pytest.mark.parametrize("message", HARMLESS)
def test_libjpeg_turbo_has_these_warnings(message: str) -> None:
    """shards/images.py recognises the warnings that affect no pixel by their text."""
    whole, odd = HARMLESS[message]
    with pytest.raises(ValueError, match=message):
        simplejpeg.decode_jpeg(odd, strict=True)
    np.testing.assert_array_equal(images.decode(odd), images.decode(whole))
