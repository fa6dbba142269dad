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
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mstat.errors import UserError
from mstat.weights.file_kinds import TENSORFLOW, foreign
from mstat.weights.pickles import refuse_endless_keys

# Names under which training programs put a state dict, beside an optimiser and counters; the first found counts.
WRAPPERS = (
    "model_state", "state_dict", "model_state_dict", "model", "task", "module", "net", "network", "weights", "params",
    "backbone", "encoder", "student", "teacher", "model_ema", "ema_state_dict", "state_dict_ema", "ema",
)  # fmt: skip
DEEPEST = 4  # wrappers around each other
SHOWN = 5  # names in a message
ONLY_TENSORS = "nothing else is loaded; where you trust it, save its weights alone as .safetensors"


class Tensors(NamedTuple):
    """The content of a file of weights.

    Attributes:
        tensors: Floats, by name.
        others: What else there is, by name, and why it is not used.
        wrappers: Names of the dicts that the tensors lay in, outermost first.
    """

    tensors: dict[str, Tensor]
    others: dict[str, str]
    wrappers: tuple[str, ...] = ()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file, and names of what it holds besides. Raises as `read_file`."""
    tensors, others, _ = read_file(path)
    return tensors, list(others)


def read_file(path: Path) -> Tensors:
    """The file's state dict, taken out of wrapping dicts where there are any.

    Raises:
        UserError: If the file is missing, damaged, or more than a dict of plain tensors.
    """
    if not path.is_file():
        if path.with_name(f"{path.name}.index").is_file():
            raise UserError(f"{path}: it is {TENSORFLOW}")
        raise UserError(f"{path}: no such file; model.init wants a checkpoint (.safetensors, .bin, .pth, .pyth)")
    if kind := foreign(path):
        raise UserError(f"{path}: not a file of plain tensors: {printable(kind)}")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = load_state(path)
    except Exception as error:  # what a damaged or hostile file raises is for it to choose
        raise UserError(f"{path}: not a file of plain tensors: {reason(path, error)}; {ONLY_TENSORS}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    others: dict[str, str] = {}
    wrappers: list[str] = []
    while len(wrappers) < DEEPEST and (wrapper := _wrapper(loaded)):
        others |= {str(key): "not weights" for key in loaded if key != wrapper}
        loaded = loaded[wrapper]
        wrappers.append(wrapper)
    for key, value in loaded.items():
        if not isinstance(key, str) or (complaint := strange(value)):
            raise UserError(f"{path}: {named([str(key)])} is {complaint if isinstance(key, str) else 'not a name'}")
    counts = {key: value for key, value in loaded.items() if not value.is_floating_point()}
    others |= {key: f"of {value.dtype}, not of floats: a buffer" for key, value in counts.items()}
    tensors = {key: value.detach() for key, value in loaded.items() if key not in counts}
    return Tensors(tensors, others, tuple(wrappers))


def load_state(path: Path) -> Any:
    """Read tensors and plain containers that torch.save wrote; no torch file is read in another way.

    Raises:
        UserError: If it is an archive of another kind, or a value in it would take for ever to be a key.
        Exception: Whatever a damaged file makes torch raise.
    """
    refuse_archive(path)
    refuse_endless_keys(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _wrapper(loaded: dict[Any, Any]) -> str | None:
    """The key of the dict in which the weights are: a usual one, or else the only one with tensors."""
    for key in WRAPPERS:
        if isinstance(loaded.get(key), dict):
            return key
    if any(isinstance(value, Tensor) for value in loaded.values()):
        return None
    with_tensors = [
        key
        for key, value in loaded.items()
        if isinstance(key, str) and isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())
    ]
    return with_tensors[0] if len(with_tensors) == 1 else None


def strange(value: object) -> str | None:
    """Return why a value is no complete, plain array of real numbers, or None."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__} where tensors should be"
    assert isinstance(value, Tensor)
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return f"a tensor of another kind: {value.layout}, {value.dtype}, {value.device}"
    if value.is_complex() or (value.is_floating_point() and value.element_size() < 2):
        return f"of {value.dtype}, not of floats of 16 to 64 bits"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        # Stretched by strides of 0: it weighs nothing until somebody computes with it.
        return f"of shape {tuple(value.shape)}, more numbers than the file holds"
    return None


def refuse_archive(path: Path) -> None:
    """Refuse files that torch would open before it refuses them: programs, and compressed zip files of any size.

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
    """Return why a file cannot be read, in a few words; torch's own message advises to run its code."""
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
    message = re.search(r"Trying to load|Unsupported [^.]*|WeightsUnpickler error: [^.\n]*", text)
    words = (message[0] if message else text.partition("\n")[0]) or type(error).__name__
    return "it is neither torch's nor safetensors" if words.endswith("error: ") else printable(words)


def named(keys: Iterable[str]) -> str:
    """Names for a message: the first few, and how many more there are."""
    shown = [printable(key) for key in keys]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def printable(text: str, length: int = 200) -> str:
    """Text of a foreign file for a terminal: without control characters, and cut off where it is long."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= length else clean[: length - 1] + "…"
