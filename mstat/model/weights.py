"""Tensors out of a file that nobody trusts: nothing in it is run, nothing but plain arrays of floats comes out.

Pickle can call any function. So torch files are read with `weights_only=True`, which knows tensors and containers and
refuses all else, and safetensors have no code at all. What remains is lies about sizes: those are found before memory
is taken for them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mstat.errors import UserError

WRAPPERS = ("model_state", "state_dict", "model")
SHOWN = 5  # names in a message
ONLY_TENSORS = "nothing else is loaded; where you trust it, save its weights alone as .safetensors"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The file's state dict, taken out of a wrapping dict where there is one, and names of what that held besides.

    Raises:
        ValueError: If the file is missing, damaged, or more than a dict of plain tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; model.init wants a checkpoint (.safetensors, .bin, .pth, .pyth)")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            refuse_archive(path)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or hostile file raises is for it to choose
        raise UserError(f"{path}: not a file of plain tensors: {reason(path, error)}; {ONLY_TENSORS}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    others: list[str] = []
    for wrapper in WRAPPERS:
        if isinstance(loaded.get(wrapper), dict):
            others = [str(key) for key in loaded if key != wrapper]
            loaded = loaded[wrapper]
            break
    for key, value in loaded.items():
        if not isinstance(key, str) or (complaint := strange(value)):
            raise UserError(f"{path}: {named([str(key)])} is {complaint if isinstance(key, str) else 'not a name'}")
    return {key: value.detach() for key, value in loaded.items()}, others


def strange(value: object) -> str | None:
    """What keeps a value from being a plain array of floats that is all there, if anything."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__} where tensors should be"
    assert isinstance(value, Tensor)
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return f"a tensor of another kind: {value.layout}, {value.dtype}, {value.device}"
    if not value.is_floating_point():
        return f"of {value.dtype}, not of floats"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        # Stretched by strides of 0: it weighs nothing until somebody computes with it.
        return f"of shape {tuple(value.shape)}, more numbers than the file holds"
    return None


def refuse_archive(path: Path) -> None:
    """What torch would open first and refuse later: programs, and zip files that are compressed, to unpack to any size.

    torch writes its own uncompressed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UserError("it is a TorchScript archive, which holds code")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UserError("it claims to be larger unpacked than it is")


def reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words. (torch's own advice is to read it without care.)"""
    text = str(error)
    with path.open("rb") as file:
        start = file.read(2)
    if path.suffix == ".safetensors" and (start == b"PK" or start[:1] == b"\x80"):
        return "it is called .safetensors and is a torch file or a pickle"
    if calls := re.search(r"GLOBAL ([\w.]+)", text):
        return f"reading it would call or make {calls[1]}"
    if "legacy .tar" in text:
        return "it is in torch's old .tar format"
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    told = re.search(r"Trying to load|Unsupported [^.]*|WeightsUnpickler error: [^.\n]*", text)
    return printable((told[0] if told else text.partition("\n")[0]) or type(error).__name__)


def named(keys: Iterable[str]) -> str:
    """Names for a message: the first few, and how many more there are."""
    shown = [printable(key) for key in keys]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def printable(text: str, length: int = 200) -> str:
    """Text of a foreign file for a terminal: without control characters, and cut off where it is long."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= length else clean[: length - 1] + "…"
