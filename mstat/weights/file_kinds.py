"""Descriptions of files that were given for weights and hold none, each with a way out.

Downloads leave pages of errors, pointers of Git LFS, and halves; other programs have formats of their own.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

HEAD = 4096  # bytes that are looked at
MOST_HEADER = 1 << 24  # of safetensors: a hundred thousand tensors
# First bytes of a file -> what it is.
MAGIC = {
    b"\x1f\x8b": "compressed with gzip: unpack it first (gunzip)",
    b"BZh": "compressed with bzip2: unpack it first (bunzip2)",
    b"\xfd7zXZ\0": "compressed with xz: unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first (unzstd)",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras, TensorFlow): export its weights from PyTorch as .safetensors",
    b"\x93NUMPY": "a single NumPy array (.npy): a state dict of named tensors is wanted, as .safetensors or .pth",
    b"GGUF": "a GGUF file: take the model's .safetensors",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".pyth", ".ckpt", ".tar")
TENSORFLOW = "a TensorFlow checkpoint: load it in its own framework and save its weights as .safetensors"
TABLE_END = bytes.fromhex("57fb808b247547db")  # the last bytes of TensorFlow's index files


def foreign(path: Path) -> str | None:
    """Return what a file is if it holds no weights; None if it may hold some."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - len(TABLE_END)))
        tail = file.read()
    if not head:
        return "it is empty (0 bytes): download it again"
    if head.startswith(b"version https://git-lfs"):
        full = re.search(rb"\nsize (\d+)", head)
        of_size = f" to a file of {int(full[1]):,} bytes" if full else ""
        return f"it is a Git LFS pointer{of_size}, not the file itself: `git lfs pull` fetches that"
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return f"it is {kind}"
    if head[4:8] == b"TFL3":
        return "it is a TensorFlow Lite model: take the model's PyTorch weights"
    if tail == TABLE_END or re.search(r"\.data-\d+-of-\d+$|\.ckpt\.(index|meta)$", path.name):
        return f"it is {TENSORFLOW}"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and re.search(rb"onnx|pytorch|tf2onnx|skl2onnx", head[:64])):
        return "it is an ONNX model: take the PyTorch weights that it was exported from"
    if path.suffix == ".msgpack":
        return "it is a Flax checkpoint: load it in its own framework and save its weights as .safetensors"
    if not head.strip(b"\0"):
        return "it begins with nothing but zeros: a copy or a download that did not end"
    return _text(head) or _zip(path, head, size) or _tar(path, head) or _safetensors(path, head, size)


def _text(head: bytes) -> str | None:
    """A text: a page, an answer of a server, a list of names."""
    text = head.decode("utf-8-sig", errors="replace").strip()
    again = "open its address in a browser to see what it asks for, and download the file itself"
    if re.match(r"<!doctype html|<html|<head|<!--", text, re.IGNORECASE):
        title = re.search(r"<title[^>]*>([^<]{1,80})", text, re.IGNORECASE)
        named = f" ({' '.join(title[1].split())!r})" if title else ""
        return f"it is an HTML page{named}: {again}"
    whole = text.rstrip("\ufffd")  # a letter that the end of the head cuts in two
    if not whole or not all((letter.isprintable() and letter != "\ufffd") or letter in "\r\n\t\f" for letter in whole):
        return None
    if text.startswith("<"):
        return f"it is XML, most likely a server's error: {again}"
    if text[0] in "{[":
        try:
            error = json.loads(text)
            error = next(error[key] for key in ("error", "message", "detail", "errors") if key in error)
            return f"it is JSON with the error {str(error)[:80]!r}: {again}"
        except (ValueError, RecursionError, StopIteration, TypeError):
            return "it is JSON, not weights"
    return f"it is a text that begins with {text.splitlines()[0][:60]!r}"


def _zip(path: Path, head: bytes, size: int) -> str | None:
    """A zip archive that torch.save did not write, or one that is cut off."""
    if not head.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(path):
        return f"it is cut off: a zip archive (as torch.save writes) whose end is missing after {size:,} bytes"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "it is a damaged zip archive"
    files = [PurePosixPath(name) for name in names if not name.endswith("/")]
    if any(file.name in ("data.pkl", "constants.pkl") for file in files):
        return None
    if files and all(file.suffix == ".npy" for file in files):
        return "it is an archive of NumPy arrays (.npz), as JAX models come in: save its weights as .safetensors"
    if inner := [file for file in files if file.suffix in WEIGHTS]:
        return f"it is a zip archive around {_few(inner)}: unpack it first"
    if any(file.name.endswith((".h5", ".keras")) for file in files):
        return "it is a Keras model: load it in its own framework and save its weights as .safetensors"
    return f"it is a zip archive that torch.save did not write ({_few(files) if files else 'empty'})"


def _tar(path: Path, head: bytes) -> str | None:
    """A tar archive around something; torch's own oldest format is one, too, and is left to torch to name."""
    if head[257:262] != b"ustar":
        return None
    try:
        with tarfile.open(path, "r:") as archive:
            names = [PurePosixPath(member.name) for member, _ in zip(archive, range(100), strict=False)]
    except (tarfile.TarError, OSError, ValueError):
        return "it is a damaged tar archive"
    if {"pickle", "storages"} & {name.name for name in names}:
        return None
    return f"it is a tar archive ({_few(names) if names else 'empty'}): unpack it first"


def _safetensors(path: Path, head: bytes, size: int) -> str | None:
    """safetensors under another name, or cut off."""
    if head[8:9] != b"{":
        return None
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= 100_000_000:
        return None
    if length > MOST_HEADER:
        return f"its header has {length:,} bytes, which no model needs"
    if 8 + length > size:
        return f"it is cut off: its header alone has {8 + length:,} bytes, and the file {size:,}"
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(8 + length)[8:])
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        whole = 8 + length + end
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError):
        return None
    if isinstance(whole, int) and size < whole < 1 << 50:
        return f"it is cut off: {size:,} of {whole:,} bytes are there; download it again"
    if path.suffix != ".safetensors":
        return "it is a safetensors file: call it .safetensors"
    return None


def _few(names: list[PurePosixPath]) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
