"""Files that hold no weights are called what they are, in one line with a way out."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mstat.errors import UserError
from mstat.weights.safe_load import read_file


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(500)}, buffer)
    return buffer.getvalue()


def archive(write: Callable[[io.BytesIO], None]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def zipped(buffer: io.BytesIO) -> None:
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("model/vit.pth", torch_file())


def tarred(buffer: io.BytesIO) -> None:
    with tarfile.open(fileobj=buffer, mode="w") as made:
        made.addfile(tarfile.TarInfo("vit.pth"), io.BytesIO())


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 344000000\n"
PLAIN = save({"a": torch.ones(500)})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "Git LFS pointer to a file of 344,000,000 bytes.*`git lfs pull`"),
        (b"<!DOCTYPE html><html><title>Sign in</title>" + 5000 * b"\xe9", r"HTML page \('Sign in'\)"),
        (b"\n <html lang=en>", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b'{"error":"Repository not found"}', "JSON with the error 'Repository not found'"),
        (b'{"image_size": 224}', "it is a JSON file, not weights"),
        (b"Invalid username or password.", "a text file that begins with 'Invalid username"),
        (b"", "it is empty"),
        (bytes(9000), "first bytes are all zero"),
        (gzip.compress(PLAIN, mtime=0), "compressed with gzip"),
        (torch_file()[:-700], "truncated: a zip archive"),
        (PLAIN[:-100], "truncated: it has .* of .* bytes"),
        (PLAIN[:20], "truncated: its header alone"),
        (archive(zipped), "a zip archive that contains model/vit.pth"),
        (archive(tarred), r"a tar archive \(vit.pth\)"),
        (archive(lambda buffer: np.savez(buffer, a=np.ones(3))), "NumPy arrays"),
        (archive(lambda buffer: np.save(buffer, np.ones(3))), "a single NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x08\x07\x12\x07pytorch\x1a\x051.13", "ONNX"),
        (b"GGUF" + bytes(100), "GGUF"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_weights_is_called_what_it_is(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    """Downloads that went wrong, archives and formats of other programs, under any name."""
    path = tmp_path / f"vit{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"not a file of plain tensors: .*{message}") as caught:
        read_file(path)
    assert "\n" not in str(caught.value)


def test_a_good_file_is_nothing_else(tmp_path: Path) -> None:
    """torch's file, its older format, and safetensors are read."""
    (tmp_path / "a.pth").write_bytes(torch_file())
    (tmp_path / "b.safetensors").write_bytes(PLAIN)
    torch.save({"a": torch.ones(500)}, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        assert torch.equal(read_file(path).tensors["a"], torch.ones(500))


def test_a_tensorflow_checkpoint_is_named(tmp_path: Path) -> None:
    """By its prefix, which is no file, and by any of its files."""
    (tmp_path / "vit.ckpt.index").write_bytes(b"noise \xff" + bytes.fromhex("57fb808b247547db"))
    for name in ("vit.ckpt", "vit.ckpt.index"):
        with pytest.raises(UserError, match="TensorFlow checkpoint"):
            read_file(tmp_path / name)
