"""Identify files that hold no weights, and name the way out for each kind.

Failed downloads leave error pages, Git LFS pointers and truncated files. Other programs have their own formats.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

HEAD = 4096  # bytes that are examined
MOST_HEADER = 1 << 24  # of safetensors: a hundred thousand tensors
# First bytes of a file -> its description.
MAGIC = {
    b"\x1f\x8b": "compressed with gzip: unpack it first (gunzip)",
    b"BZh": "compressed with bzip2: unpack it first (bunzip2)",
    b"\xfd7zXZ\0": "compressed with xz: unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first (unzstd)",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras, TensorFlow): export its weights from PyTorch as .safetensors",
    b"\x93NUMPY": "a single NumPy array (.npy): give a state dict of named tensors, as .safetensors or .pth",
    b"GGUF": "a GGUF file: use the model's .safetensors",
    b"%PDF": "a PDF document, not weights",
    b"\x89PNG": "an image, not weights",
    b"\xff\xd8\xff": "an image, not weights",
}
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".pyth", ".ckpt", ".tar")
TENSORFLOW = "a TensorFlow checkpoint: load it in TensorFlow and save its weights as .safetensors"
TABLE_END = bytes.fromhex("57fb808b247547db")  # the last bytes of TensorFlow's index files


def foreign(path: Path) -> str | None:
    """Return a description of a file that holds no weights; None if it may hold some."""
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
        return f"it is a Git LFS pointer{of_size}, not the file itself: run `git lfs pull`"
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return f"it is {kind}"
    if head[4:8] == b"TFL3":
        return "it is a TensorFlow Lite model: use the model's PyTorch weights"
    if tail == TABLE_END or re.search(r"\.data-\d+-of-\d+$|\.ckpt\.(index|meta)$", path.name):
        return f"it is {TENSORFLOW}"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and re.search(rb"onnx|pytorch|tf2onnx|skl2onnx", head[:64])):
        return "it is an ONNX model: use the PyTorch weights that it was exported from"
    if path.suffix == ".msgpack":
        return "it is a Flax checkpoint: load it in Flax and save its weights as .safetensors"
    if not head.strip(b"\0"):
        return "its first bytes are all zero, as after an incomplete copy or download: download it again"
    return _text(head) or _zip(path, head, size) or _tar(path, head) or _safetensors(path, head, size)


def _text(head: bytes) -> str | None:
    """Describe a text file, such as an HTML page or the error of a server."""
    text = head.decode("utf-8-sig", errors="replace").strip()
    again = "open the URL in a browser to see what it asks for, then download the file itself"
    if re.match(r"<!doctype html|<html|<head|<!--", text, re.IGNORECASE):
        title = re.search(r"<title[^>]*>([^<]{1,80})", text, re.IGNORECASE)
        named = f" ({' '.join(title[1].split())!r})" if title else ""
        return f"it is an HTML page{named}: {again}"
    whole = text.rstrip("\ufffd")  # a character that the end of the head cuts in two
    if not whole or not all((c.isprintable() and c != "\ufffd") or c in "\r\n\t\f" for c in whole):
        return None
    if text.startswith("<"):
        return f"it is XML, probably the error of a server: {again}"
    if text[0] in "{[":
        try:
            error = json.loads(text)
            error = next(error[key] for key in ("error", "message", "detail", "errors") if key in error)
            return f"it is JSON with the error {str(error)[:80]!r}: {again}"
        except (ValueError, RecursionError, StopIteration, TypeError):
            return "it is a JSON file, not weights"
    return f"it is a text file that begins with {text.splitlines()[0][:60]!r}"


def _zip(path: Path, head: bytes, size: int) -> str | None:
    """Describe a zip archive that is truncated or that torch.save did not write."""
    if not head.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(path):
        return (
            f"it is truncated: a zip archive (as torch.save writes) without its end, {size:,} bytes; download it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "it is a damaged zip archive: download it again"
    files = [PurePosixPath(name) for name in names if not name.endswith("/")]
    if any(file.name in ("data.pkl", "constants.pkl") for file in files):
        return None
    if files and all(file.suffix == ".npy" for file in files):
        return "it is an archive of NumPy arrays (.npz), as of JAX models: save its weights as .safetensors"
    if inner := [file for file in files if file.suffix in WEIGHTS]:
        return f"it is a zip archive that contains {_few(inner)}: unpack it first"
    if any(file.name.endswith((".h5", ".keras")) for file in files):
        return "it is a Keras model: load it in Keras and save its weights as .safetensors"
    return f"it is a zip archive that torch.save did not write ({_few(files) if files else 'empty'})"


def _tar(path: Path, head: bytes) -> str | None:
    """Describe a tar archive. torch's oldest format, also a tar archive, is left to torch."""
    if head[257:262] != b"ustar":
        return None
    try:
        with tarfile.open(path, "r:") as archive:
            names = [PurePosixPath(member.name) for member, _ in zip(archive, range(100), strict=False)]
    except (tarfile.TarError, OSError, ValueError):
        return "it is a damaged tar archive: download it again"
    if {"pickle", "storages"} & {name.name for name in names}:
        return None
    return f"it is a tar archive ({_few(names) if names else 'empty'}): unpack it first"


def _safetensors(path: Path, head: bytes, size: int) -> str | None:
    """Describe a safetensors file that is truncated or has another suffix."""
    if head[8:9] != b"{":
        return None
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= 100_000_000:
        return None
    if length > MOST_HEADER:
        return f"its safetensors header claims {length:,} bytes, which no model needs: download it again"
    if 8 + length > size:
        return f"it is truncated: its header alone needs {8 + length:,} bytes, the file has {size:,}; download it again"
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(8 + length)[8:])
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        whole = 8 + length + end
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError):
        return None
    if isinstance(whole, int) and size < whole < 1 << 50:
        return f"it is truncated: it has {size:,} of {whole:,} bytes; download it again"
    if path.suffix != ".safetensors":
        return "it is a safetensors file: rename it to end in .safetensors"
    return None


def _few(names: list[PurePosixPath]) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
