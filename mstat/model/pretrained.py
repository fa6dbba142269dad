"""Start from somebody's weights: TimeSformer (official or Hugging Face), a plain ViT, or an MSTAT of our own.

All foreign layouts are first renamed to the official TimeSformer's names (`mstat.model.layouts`), and one table leads
from there to ours. Every key of a file and every tensor of ours is accounted for; nothing is loaded before all of it
fits. No code in a checkpoint is run (`mstat.model.weights`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mstat.errors import UserError
from mstat.model.layouts import BLOCK_KEYS, DROPPED, KINDS, Stored, has_time, refuse_keys, to_official
from mstat.model.mstat import MSTAT
from mstat.model.noise import block_counts
from mstat.model.sta import AttributeSTA
from mstat.model.weights import named, printable, read_tensors

NO_KEY = "-"  # stands in a row for what comes from no key of the file
NOWHERE = "dropped"  # stands in a row for a tensor of ours
KEPT = "keeps its own start"


class Row(NamedTuple):
    """What became of one key of the file, or whence one of our tensors comes.

    A key that fills several of ours has several rows; together they hold every key and every tensor.

    Attributes:
        key: As the file has it, or NO_KEY.
        ours: Our name, or NOWHERE.
        action: How it was used (copied, resized from which grid to which), or why not.
        shape: Of the file's tensor; None where there is none.
    """

    key: str
    ours: str
    action: str
    shape: tuple[int, ...] | None = None


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
    Pixel normalisation comes with the weights where they tell it: TimeSformer's 0.45 / 0.225, ImageNet's of a
    distilled ViT (DeiT); another ViT keeps our 0.5 / 0.5, which is that of most of timm's.

    Returns:
        One row or more for every key of the file and every tensor of the model. On the meta device nothing is filled,
        and the rows are the same.

    Raises:
        ValueError: The file is missing or holds more than plain tensors, its layout is unknown, keys are unknown or
            missing, shapes do not fit, numbers are not finite. The model is untouched then.
    """
    path = Path(path)
    tensors, others = read_tensors(path)
    rows = [Row(printable(name), NOWHERE, "not weights") for name in others]
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
                rows.append(Row(key, NOWHERE, DROPPED.get(name, "more blocks than model.depths takes")))

    wrong = [
        f"{fill.key} {tuple(fill.value.shape)} for {fill.ours} {tuple(state[fill.ours].shape)}"
        for fill in fills
        if fill.value.shape != state[fill.ours].shape
    ]
    if wrong:
        raise UserError(f"{path}: shapes do not fit the model section of the config: {named(wrong)}")
    if broken := [fill.key for fill in fills if not fill.value.isfinite().all()]:
        raise UserError(f"{path}: holds numbers that are not finite: {named(dict.fromkeys(broken))}")
    for fill in fills:
        state[fill.ours].copy_(fill.value)
        rows.append(Row(fill.key, fill.ours, fill.action))
    filled = {fill.ours for fill in fills}
    rows += [Row(NO_KEY, ours, KEPT) for ours in state if ours not in filled]
    return [row._replace(shape=tuple(tensors[row.key].shape)) if row.key in tensors else row for row in rows]


def fills_from_official(model: MSTAT, path: Path, official: dict[str, Stored]) -> Iterator[Fill]:
    """All that a TimeSformer or a ViT gives to `model`."""
    first, second, third = block_counts(model.config)
    blocks = [(i, f"stage1.blocks.{i}") for i in range(first)]
    blocks += [(first + i, f"stage2.blocks.{i}") for i in range(second)]
    blocks += [(first + i, f"stage3.blocks.{i}") for i in range(third)]
    absent = sorted({i for i, _ in blocks if f"blocks.{i}.norm1.weight" not in official})
    if absent:
        raise UserError(f"{path}: has no blocks {absent}, which this model needs: see model.depths and model.iap")
    for i, block in blocks:
        # An A-STA is silent by its alpha = 0; were its last layer 0 too, neither would ever get a gradient.
        silence_time = not isinstance(model.get_submodule(block), AttributeSTA)
        yield from fills_of_block(official, i, block, silence_time)

    key, kernel = official["patch_embed.proj.weight"]
    yield Fill(key, "stem.patch.weight", kernel.flatten(1) if kernel.dim() > 1 else kernel, "flattened")
    key, bias = official["patch_embed.proj.bias"]
    yield Fill(key, "stem.patch.bias", bias, "copied")
    yield from fills_of_tokens(model, path, official)
    stages = [name for name in ("stage1", "stage2", "stage3") if getattr(model, name) is not None]
    for kind, stage in product(KINDS, stages):
        key, value = official[f"norm.{kind}"]
        yield Fill(key, f"{stage}.norm.{kind}", value, "copied")
    if has_time(official):
        yield Fill(NO_KEY, "stem.pixel_mean", torch.full((3,), 0.45), "0.45, TimeSformer's")
        yield Fill(NO_KEY, "stem.pixel_std", torch.full((3,), 0.225), "0.225, TimeSformer's")
    elif "dist_token" in official:
        yield Fill(NO_KEY, "stem.pixel_mean", torch.tensor([0.485, 0.456, 0.406]), "ImageNet's, as DeiT has it")
        yield Fill(NO_KEY, "stem.pixel_std", torch.tensor([0.229, 0.224, 0.225]), "ImageNet's, as DeiT has it")


def fills_of_tokens(model: MSTAT, path: Path, official: dict[str, Stored]) -> Iterator[Fill]:
    """Class token and positions. The class token's own position is added to it; a distillation token's is left out."""
    cls_key, cls_token = official["cls_token"]
    key, position = official["pos_embed"]
    before = 2 if "dist_token" in official else 1  # tokens before the patches
    width = cls_token.shape[-1:]
    fits = cls_token.shape == (1, 1, *width) and position.dim() == 3 and position.shape[::2] == (1, *width)
    if not fits or position.shape[1] <= before:
        found = f"{tuple(cls_token.shape)} and {tuple(position.shape)}"
        raise UserError(f"{path}: {cls_key} and {key} are {found}; they should be (1, 1, D) and (1, {before} + N, D)")
    class_token = cls_token[0, 0] + position[0, 0]
    yield Fill(cls_key, "stem.class_token", class_token, "its position added to it")
    yield Fill(key, "stem.class_token", class_token, "place 0, added to the class token")
    patches = position[0, before:]
    side, grid = math.isqrt(len(patches)), model.stem.grid
    resized = resize_position(patches, grid)
    if resized is patches:
        action = f"{len(patches)} places as they are"
    else:
        action = f"2-D bicubic, {side} x {side} -> {grid[0]} x {grid[1]} ({len(patches)} -> {len(resized)} places)"
    yield Fill(key, "stem.position", resized, action)


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
