"""Read tensors from an untrusted file: run none of its code, and return nothing but plain arrays of floats.

A pickle can call any function. So torch files are read with `weights_only=True`, which accepts tensors and containers
only; safetensors files have no code. Sizes that a file claims are checked before memory is allocated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mstat.errors import UserError
from mstat.foreign_messages import LEGACY_TAR, REFUSED_CALL, UNPICKLER_ERROR
from mstat.weights.file_kinds import TENSORFLOW, foreign
from mstat.weights.pickles import refuse_endless_keys

# Keys under which training programs store a state dict, beside an optimiser and counters; the first one present counts.
WRAPPERS = (
    "model_state", "state_dict", "model_state_dict", "model", "task", "module", "net", "network", "weights", "params",
    "backbone", "encoder", "student", "teacher", "model_ema", "ema_state_dict", "state_dict_ema", "ema",
)  # fmt: skip
DEEPEST = 4  # nested wrappers
SHOWN = 5  # names in a message
ONLY_TENSORS = "mstat loads nothing else; if you trust the file, save its weights alone as .safetensors"


class Tensors(NamedTuple):
    """The content of a file of weights.

    Attributes:
        tensors: Floating-point tensors, by name.
        others: Unused entries, by name, with the reason.
        wrappers: Keys of the dicts around the tensors, outermost first.
    """

    tensors: dict[str, Tensor]
    others: dict[str, str]
    wrappers: tuple[str, ...] = ()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a file, and the names of its other entries. Raises the errors of `read_file`."""
    tensors, others, _ = read_file(path)
    return tensors, list(others)


def read_file(path: Path) -> Tensors:
    """Return the file's state dict, without the dicts that wrap it.

    Raises:
        UserError: If the file is missing or damaged, or holds more than a dict of plain tensors.
    """
    if not path.is_file():
        if path.with_name(f"{path.name}.index").is_file():
            raise UserError(f"{path}: it is {TENSORFLOW}")
        raise UserError(f"{path}: no such file; model.init must be a checkpoint (.safetensors, .bin, .pth, .pyth)")
    if kind := foreign(path):
        raise UserError(f"{path}: not a file of plain tensors: {printable(kind)}")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = load_state(path)
    except Exception as error:  # a damaged or hostile file can raise anything
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
            raise UserError(f"{path}: {named([str(key)])} is {complaint if isinstance(key, str) else 'not a string'}")
    counts = {key: value for key, value in loaded.items() if not value.is_floating_point()}
    others |= {key: f"a buffer of {value.dtype}, not a weight" for key, value in counts.items()}
    tensors = {key: value.detach() for key, value in loaded.items() if key not in counts}
    return Tensors(tensors, others, tuple(wrappers))


def load_state(path: Path) -> Any:
    """Read tensors and plain containers that torch.save wrote. Every torch file is read here.

    Raises:
        UserError: If the file is an archive of another kind, or a key would take forever to hash.
        Exception: Any error of torch on a damaged file.
    """
    refuse_archive(path)
    refuse_endless_keys(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _wrapper(loaded: dict[Any, Any]) -> str | None:
    """Return the key of the dict that holds the weights: a usual one, or else the only one with tensors."""
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
    """Return what a value is, if it is not a plain, complete array of real numbers; else None."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}, not a tensor"
    assert isinstance(value, Tensor)
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return f"a tensor of another kind: {value.layout}, {value.dtype}, {value.device}"
    if value.is_complex() or (value.is_floating_point() and value.element_size() < 2):
        return f"of {value.dtype}, not of 16 to 64-bit floats"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        # Expanded by strides of 0: it takes no memory until it is copied.
        return f"of shape {tuple(value.shape)}, more values than the file holds"
    return None


def refuse_archive(path: Path) -> None:
    """Refuse TorchScript archives and compressed zip files, which torch would unpack before it refuses them.

    torch writes its own archives uncompressed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UserError("it is a TorchScript archive, which holds code")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UserError("it unpacks to more than its own size, so torch.save did not write it")


def reason(path: Path, error: Exception) -> str:
    """Return briefly why a file cannot be read. torch's own message advises to run the file's code."""
    text = str(error)
    with path.open("rb") as file:
        start = file.read(2)
    if path.suffix == ".safetensors" and (start == b"PK" or start[:1] == b"\x80"):
        return "its name ends in .safetensors, but it is a torch file or a pickle"
    if calls := REFUSED_CALL.search(text):
        return f"reading it would call {calls[1]}"
    if LEGACY_TAR in text:
        return "it is in torch's old .tar format"
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    message = UNPICKLER_ERROR.search(text)
    words = (message[0] if message else text.partition("\n")[0]) or type(error).__name__
    return "it is neither a torch nor a safetensors file" if words.endswith("error: ") else printable(words)


def named(keys: Iterable[str]) -> str:
    """Join names for a message: the first few, and the number of the others."""
    shown = [printable(key) for key in keys]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def printable(text: str, length: int = 200) -> str:
    """Make text of an untrusted file safe for a terminal: replace control characters, and truncate it to `length`."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= length else clean[: length - 1] + "…"
