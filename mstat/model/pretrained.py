"""Start from somebody's weights: TimeSformer (official or Hugging Face), a plain ViT, or an MSTAT of our own.

All foreign layouts are first renamed to the official TimeSformer's names, and one table leads from there to ours.
Every key of a file is accounted for; nothing is loaded before all of it fits. No code in a checkpoint is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from mstat.model.mstat import MSTAT
from mstat.model.noise import block_counts
from mstat.model.sta import AttributeSTA

# Official name -> ours, inside a block.
BLOCK_MODULES = {
    "temporal_norm1": "temporal.norm",
    "temporal_attn.qkv": "temporal.attention.qkv",
    "temporal_attn.proj": "temporal.attention.proj",
    "temporal_fc": "temporal.fc",
    "norm1": "spatial_norm",
    "attn.qkv": "spatial.qkv",
    "attn.proj": "spatial.proj",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
KINDS = ("weight", "bias")
BLOCK_KEYS = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in BLOCK_MODULES.items() for kind in KINDS}
STEM_KEYS = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
DROPPED_KEYS = {"time_embed", "head.weight", "head.bias"}
NO_KEY = "-"  # stands in a row for what comes from no key of the file

# Hugging Face's name -> the official one, after the model's own prefix is taken away.
HUGGING_FACE = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.time_embeddings", "time_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.temporal_layernorm\.(weight|bias)", r"blocks.\1.temporal_norm1.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.qkv\.(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.temporal_attention\.attention\.qkv\.(weight|bias)", r"blocks.\1.temporal_attn.qkv.\2"),
    (r"encoder\.layer\.(\d+)\.temporal_attention\.output\.dense\.(weight|bias)", r"blocks.\1.temporal_attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.temporal_dense\.(weight|bias)", r"blocks.\1.temporal_fc.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
    (r"classifier\.(weight|bias)", r"head.\1"),
]


class Row(NamedTuple):
    """What became of one key of the file. A key that fills several of ours has several rows."""

    key: str
    ours: str  # our key, or "dropped"
    action: str


class Stored(NamedTuple):
    """A tensor under the name that its file gives it."""

    key: str
    value: Tensor


class Fill(NamedTuple):
    """A tensor on its way into ours."""

    key: str
    ours: str
    value: Tensor
    action: str


def load_pretrained(model: MSTAT, path: str | Path) -> list[Row]:
    """Fill `model` in place from a file; what the file does not have keeps its random start.

    Blocks are taken in order: Stage I first, then Stage II; Stage III copies what Stage II takes. The layout is told
    by the keys, the container by the suffix (`.safetensors`, else a torch file, read with `weights_only=True`).
    TimeSformer's pixel normalisation, 0.45 / 0.225, comes with its weights.

    Returns:
        One row or more for every key of the file.

    Raises:
        ValueError: The file is missing or holds more than plain tensors, its layout is unknown, keys are unknown or
            missing, shapes do not fit. The model is untouched then.
    """
    path = Path(path)
    tensors, rows = read_tensors(path)
    state = model.state_dict()
    if "stem.patch.weight" in tensors:
        refuse_keys(path, set(tensors), required=set(state), optional=set())
        fills = [Fill(key, key, value, "copied") for key, value in tensors.items()]
    else:
        official = to_official(path, tensors)
        fills = list(fills_from_official(model, path, official))
        used = {fill.key for fill in fills}
        for name, (key, _) in official.items():
            if key not in used:
                rows.append(Row(key, "dropped", "block not needed" if name.startswith("blocks.") else "not in MSTAT"))

    wrong = [
        f"{fill.key} {tuple(fill.value.shape)} for {fill.ours} {tuple(state[fill.ours].shape)}"
        for fill in fills
        if fill.value.shape != state[fill.ours].shape
    ]
    if wrong:
        raise ValueError(f"{path}: shapes do not fit the model section of the config: {'; '.join(wrong)}")
    for fill in fills:
        state[fill.ours].copy_(fill.value)
        rows.append(Row(fill.key, fill.ours, fill.action))
    return rows


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[Row]]:
    """The file's state dict, taken out of a wrapping dict where there is one, and rows for what that held besides."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; model.init wants a checkpoint (.safetensors, .bin, .pth, .pyth)")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or hostile file raises is for it to choose
        raise ValueError(f"{path}: not a file of plain tensors, and nothing else is loaded: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    rows: list[Row] = []
    for wrapper in ("model_state", "state_dict", "model"):
        if isinstance(loaded.get(wrapper), dict):
            rows = [Row(str(key), "dropped", "not weights") for key in loaded if key != wrapper]
            loaded = loaded[wrapper]
            break
    strange = [str(key) for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange:
        raise ValueError(f"{path}: not tensors: {', '.join(strange)}")
    return loaded, rows


def to_official(path: Path, tensors: dict[str, Tensor]) -> dict[str, Stored]:
    """Rename a foreign state dict to the official TimeSformer's names, and refuse what is left over or missing."""
    hugging_face = any("embeddings.patch_embeddings.projection" in key for key in tensors)
    official: dict[str, Stored] = {}
    unknown = []
    for key, value in tensors.items():
        name = hugging_face_name(key) if hugging_face else key.removeprefix("model.")
        if name is None or name in official:
            unknown.append(key)
        else:
            official[name] = Stored(key, value)
    if unknown:
        raise ValueError(f"{path}: unknown or repeated keys: {', '.join(unknown)}")
    if "patch_embed.proj.weight" not in official:
        raise ValueError(f"{path}: not a TimeSformer, ViT or MSTAT; its keys begin with {', '.join(list(tensors)[:5])}")

    suffixes = [suffix for suffix in BLOCK_KEYS if has_time(official) or not suffix.startswith("temporal_")]
    num_blocks = len({match[1] for name in official if (match := re.match(r"blocks\.(\d+)\.", name))})
    required = STEM_KEYS | {f"blocks.{i}.{suffix}" for i in range(num_blocks) for suffix in suffixes}
    refuse_keys(path, set(official), required, DROPPED_KEYS)
    return official


def hugging_face_name(key: str) -> str | None:
    """The official name of a Hugging Face key, or None."""
    for pattern, official in HUGGING_FACE:
        if match := re.fullmatch(pattern, key.removeprefix("timesformer.")):
            return match.expand(official)
    return None


def has_time(official: dict[str, Stored]) -> bool:
    """A TimeSformer; else a plain ViT, which has no temporal attention."""
    return any(".temporal_" in name for name in official)


def refuse_keys(path: Path, found: set[str], required: set[str], optional: set[str]) -> None:
    """Nothing may be left over, nothing may be missing."""
    unknown, missing = found - required - optional, required - found
    if unknown or missing:
        raise ValueError(
            f"{path}: unknown keys: {', '.join(sorted(unknown)) or 'none'}; "
            f"missing keys: {', '.join(sorted(missing)) or 'none'}"
        )


def fills_from_official(model: MSTAT, path: Path, official: dict[str, Stored]) -> Iterator[Fill]:
    """All that a TimeSformer or a ViT gives to `model`."""
    first, second, third = block_counts(model.config)
    blocks = [(i, f"stage1.blocks.{i}") for i in range(first)]
    blocks += [(first + i, f"stage2.blocks.{i}") for i in range(second)]
    blocks += [(first + i, f"stage3.blocks.{i}") for i in range(third)]
    absent = sorted({i for i, _ in blocks if f"blocks.{i}.norm1.weight" not in official})
    if absent:
        raise ValueError(f"{path}: has no blocks {absent}, which this model needs: see model.depths and model.iap")
    for i, block in blocks:
        # An A-STA is silent by its alpha = 0; were its last layer 0 too, neither would ever get a gradient.
        silence_time = not isinstance(model.get_submodule(block), AttributeSTA)
        yield from fills_of_block(official, i, block, silence_time)

    key, kernel = official["patch_embed.proj.weight"]
    yield Fill(key, "stem.patch.weight", kernel.flatten(1), "flattened")
    key, bias = official["patch_embed.proj.bias"]
    yield Fill(key, "stem.patch.bias", bias, "copied")
    cls_key, cls_token = official["cls_token"]
    key, position = official["pos_embed"]
    if cls_token.dim() != 3 or position.dim() != 3 or position.shape[1] < 2:
        found = f"{tuple(cls_token.shape)} and {tuple(position.shape)}"
        raise ValueError(f"{path}: {cls_key} and {key} are {found}; they should be (1, 1, D) and (1, 1 + N, D)")
    class_token = (cls_token[:, 0] + position[:, 0])[0]
    yield Fill(cls_key, "stem.class_token", class_token, "added to the class token's position")
    yield Fill(key, "stem.class_token", class_token, "the class token's position, added to it")
    yield Fill(key, "stem.position", resize_position(position[0, 1:], model.stem.grid), "the patches', on our grid")
    stages = [name for name in ("stage1", "stage2", "stage3") if getattr(model, name) is not None]
    for kind, stage in product(KINDS, stages):
        key, value = official[f"norm.{kind}"]
        yield Fill(key, f"{stage}.norm.{kind}", value, "copied")
    if has_time(official):
        yield Fill(NO_KEY, "stem.pixel_mean", torch.full((3,), 0.45), "TimeSformer's")
        yield Fill(NO_KEY, "stem.pixel_std", torch.full((3,), 0.225), "TimeSformer's")


def fills_of_block(official: dict[str, Stored], index: int, block: str, silence_time: bool) -> Iterator[Fill]:
    """One block. A ViT's temporal attention starts as its spatial one, unheard where `silence_time`."""
    for suffix, ours in BLOCK_KEYS.items():
        name = f"blocks.{index}.{suffix}"
        if name in official:
            key, value = official[name]
            yield Fill(key, f"{block}.{ours}", value, "copied")
        elif not suffix.startswith("temporal_fc."):
            key, value = official[name.replace("temporal_", "")]
            yield Fill(key, f"{block}.{ours}", value, "copied from space to time")
        elif silence_time:
            key, value = official[f"blocks.{index}.attn.{suffix.replace('temporal_fc', 'proj')}"]
            yield Fill(NO_KEY, f"{block}.{ours}", torch.zeros_like(value), "zero: time is not heard yet")


def resize_position(position_ND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of a square picture, bicubic in two dimensions to (rows, columns): (N', D) -> (N, D)."""
    side = math.isqrt(len(position_ND))
    if side * side != len(position_ND) or grid == (side, side):
        return position_ND  # not square: fits as it is, or its shape is refused
    plane = position_ND.float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    return F.interpolate(plane, size=grid, mode="bicubic", align_corners=False)[0].flatten(1).T
