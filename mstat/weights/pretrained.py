"""Initialise a model from pretrained weights: a TimeSformer, the ViT of timm, CLIP or DINOv2, or an MSTAT.

`mstat.weights.source` reads the file. The keys of other layouts are first renamed to the official TimeSformer's
(`mstat.weights.checkpoint_keys`), which one table maps to ours. Every key of the file and every tensor of the model is
accounted for, and nothing is loaded unless everything fits. No code of a checkpoint is run (`mstat.weights.safe_load`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.model.mstat import MSTAT
from mstat.model.randomness import block_counts
from mstat.model.sta import AttributeSTA
from mstat.weights import positions
from mstat.weights.checkpoint_keys import (
    BLOCK_KEYS,
    CLIP,
    DROPPED,
    IMAGENET,
    KINDS,
    LAYER_SCALE_KEYS,
    PATCH_BIAS,
    PIXELS,
    Pixels,
    Stored,
    has_layer_scale,
    has_stem_norm,
    has_time,
    refuse_keys,
    take_off_prefix,
    to_official,
)
from mstat.weights.needed_settings import refuse_settings
from mstat.weights.positions import resize_position
from mstat.weights.safe_load import named, printable
from mstat.weights.source import Source, read_source

NO_KEY = "-"  # `key` of a row that comes from no key of the file
NOWHERE = "dropped"  # `ours` of a row that fills no tensor of the model
KEPT = "keeps its own start"
# Keys beside a vision model that belong to it, with the reason why MSTAT does not use them.
OUTSIDE = {"visual_projection.weight": DROPPED["projection"]}


class Row(NamedTuple):
    """The use of one key of the file, or the origin of one tensor of the model.

    A key that fills several tensors has several rows. Together, the rows hold every key and every tensor.

    Attributes:
        key: The key in the file, or NO_KEY.
        ours: The tensor's name in the model, or NOWHERE.
        action: How the key was used (copied, resized between which grids), or why not.
        shape: Shape of the file's tensor; None without one.
    """

    key: str
    ours: str
    action: str
    shape: tuple[int, ...] | None = None


class Fill(NamedTuple):
    """A tensor of the file that fills a tensor of the model."""

    key: str
    ours: str
    value: Tensor
    action: str


def load_pretrained(model: MSTAT, path: str | Path) -> list[Row]:
    """Fill `model` in place from a file or folder. Tensors that are not in the file keep their random start.

    `mstat.weights.source` lists the accepted sources. Blocks are used in order: first Stage I, then Stage II; Stage III
    gets copies of Stage II's. The keys identify the layout, with any prefix; the suffix identifies the container
    (`.safetensors`, else a torch file, read with `weights_only=True`). Pixel normalisation follows the weights, see
    `pixels_of`.

    Returns:
        One or more rows for every key of the file and every tensor of the model, and one for each decision (with
        NO_KEY for key and name). On the meta device nothing is filled, and the rows are the same.

    Raises:
        UserError: If the file is missing or holds more than plain tensors, its layout is unknown, keys are unknown or
            missing, the model's settings or shapes do not fit, or values are not finite. The model is then unchanged.
    """
    source = read_source(Path(path))
    path, tensors = source.path, {key: value.float() for key, value in source.tensors.items()}
    bare = take_off_prefix(path, tensors)
    source.notes += [f"{printable(prefix)!r} removed from the keys" for prefix in bare.taken]
    rows = [Row(printable(name), NOWHERE, why) for name, why in source.others.items()]
    rows += [Row(key, NOWHERE, OUTSIDE.get(key, "not part of the model")) for key in bare.outside]
    state = model.state_dict()
    parts: dict[str, list[str]] = {}
    if "stem.patch.weight" in bare.stored:
        necks = [name for name in bare.stored if name.startswith("necks.")]
        rows += [Row(bare.stored.pop(name)[0], NOWHERE, "a BNNeck belongs to its run's classifiers") for name in necks]
        refuse_settings(model.config, source, bare.stored)
        required = {name for name in state if not name.startswith("necks.")}
        refuse_keys(path, set(bare.stored), required, set(), source.others)
        fills = list(fills_from_own(model, bare.stored, source))
    else:
        official, parts = to_official(path, bare.stored, source.others)
        kernel = official["patch_embed.proj.weight"].value
        refuse_settings(model.config, source, official, kernel)
        fills = list(fills_from_official(model, source, official))
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
        raise UserError(f"{path}: shapes do not fit the settings model.*: {named(wrong)}")
    if broken := [fill.key for fill in fills if not fill.value.isfinite().all()]:
        raise UserError(f"{path}: tensors are not finite: {named(dict.fromkeys(broken))}")
    for fill in fills:
        state[fill.ours].copy_(fill.value)
        rows.append(Row(fill.key, fill.ours, fill.action))
    filled = {fill.ours for fill in fills}
    rows += [Row(NO_KEY, ours, KEPT) for ours in state if ours not in filled]
    if cast := sorted({str(value.dtype).removeprefix("torch.") for value in source.tensors.values()} - {"float32"}):
        source.notes.append(f"weights of {' and '.join(cast)} converted to float32")
    notes = [Row(NO_KEY, NO_KEY, note) for note in source.notes]
    rows = [one for row in rows for one in _per_key(row, parts)]
    return [row._replace(shape=tuple(tensors[row.key].shape)) if row.key in tensors else row for row in rows] + notes


def _per_key(row: Row, parts: dict[str, list[str]]) -> list[Row]:
    """Return the row of a tensor that joins several keys of the file once for each of them."""
    if row.key not in parts:
        return [row]
    return [row._replace(key=key, action=f"{row.action}, queries, keys and values joined") for key in parts[row.key]]


def fills_from_own(model: MSTAT, bare: dict[str, Stored], source: Source) -> Iterator[Fill]:
    """Yield the fills from another MSTAT. If its frames have another size, values per patch are resized as a grid."""
    state, target = model.state_dict(), model.stem.grid
    known = source.grid
    for name, (key, value) in bare.items():
        of_patches = name == "stem.position" or name.endswith(".temporal.expand.proxies")
        if of_patches and value.dim() == 2 and value.shape != state[name].shape:
            result = grid_of(source, key, len(value), known, target, squares_first=False)
            known = known or result
            if result is not None:
                yield Fill(key, name, resize_position(value, target, result), positions.action(result, target))
                continue
        yield Fill(key, name, value, "copied")


def grid_of(
    source: Source, key: str, places: int, known: positions.Grid | None, target: positions.Grid, squares_first: bool
) -> positions.Grid | None:
    """Return the grid of a number of positions, and note a guess in `source`; None if no grid fits."""
    grid, guess = positions.source_grid(places, known, target, squares_first)
    if grid is None and known is not None:
        raise UserError(
            f"{source.path}: {key} has {places} positions, but the description beside the weights has "
            f"{known[0]} x {known[1]} patches"
        )
    if grid is None and guess is not None:
        raise UserError(f"{source.path}: {key} has {places} positions, {guess}")
    if guess is not None:
        source.notes.append(guess)
    return grid


def fills_from_official(model: MSTAT, source: Source, official: dict[str, Stored]) -> Iterator[Fill]:
    """Yield the fills of `model` from a TimeSformer or a ViT."""
    first, second, third = block_counts(model.config)
    blocks = [(i, f"stage1.blocks.{i}") for i in range(first)]
    blocks += [(first + i, f"stage2.blocks.{i}") for i in range(second)]
    blocks += [(first + i, f"stage3.blocks.{i}") for i in range(third)]
    absent = sorted({i for i, _ in blocks if f"blocks.{i}.norm1.weight" not in official})
    if absent:
        raise UserError(
            f"{source.path}: has no blocks {absent}, which this model needs: lower model.depths, or change model.iap"
        )
    for i, block in blocks:
        # An A-STA starts with alpha = 0. If its last layer were 0, too, neither would ever get a gradient.
        silence_time = not isinstance(model.get_submodule(block), AttributeSTA)
        yield from fills_of_block(official, i, block, silence_time)

    key, kernel = official["patch_embed.proj.weight"]
    yield Fill(key, "stem.patch.weight", kernel.flatten(1) if kernel.dim() > 1 else kernel, "flattened")
    if PATCH_BIAS in official:
        key, bias = official[PATCH_BIAS]
        yield Fill(key, "stem.patch.bias", bias, "copied")
    else:
        yield Fill(NO_KEY, "stem.patch.bias", torch.zeros(kernel.shape[:1]), "zero: CLIP's patch embedding has no bias")
    for kind in KINDS if has_stem_norm(official) else ():
        key, value = official[f"norm_pre.{kind}"]
        yield Fill(key, f"stem.norm.{kind}", value, "copied")
    yield from fills_of_tokens(model, source, official)
    stages = [name for name in ("stage1", "stage2", "stage3") if getattr(model, name) is not None]
    for kind, stage in product(KINDS, stages):
        key, value = official[f"norm.{kind}"]
        yield Fill(key, f"{stage}.norm.{kind}", value, "copied")
    if (pixels := pixels_of(official, source)) is not None:
        (mean, std), origin = pixels
        yield Fill(NO_KEY, "stem.pixel_mean", torch.tensor(mean), origin)
        yield Fill(NO_KEY, "stem.pixel_std", torch.tensor(std), origin)


def pixels_of(official: Iterable[str], source: Source) -> tuple[Pixels, str] | None:
    """Return the normalisation of the pixels for which the weights were trained, and whose it is.

    None leaves our 0.5 / 0.5, as most ViTs of timm have it.
    """
    if has_time(official):
        mean, std = PIXELS["divided"]
        return ((mean,) * 3, (std,) * 3), "0.45 / 0.225, TimeSformer's"
    if "dist_token" in official:
        return IMAGENET, "ImageNet's, as DeiT has it"
    if not (has_stem_norm(official) or has_layer_scale(official)):
        return None
    if source.pixels is not None:
        return source.pixels, "stated beside the weights"
    return (CLIP, "CLIP's") if has_stem_norm(official) else (IMAGENET, "ImageNet's, as DINOv2 has it")


def fills_of_tokens(model: MSTAT, source: Source, official: dict[str, Stored]) -> Iterator[Fill]:
    """Yield class token and positions: add the class token's position to it, and drop the distillation token's."""
    cls_key, cls_token = official["cls_token"]
    key, position = official["pos_embed"]
    width = cls_token.shape[-1:]
    fits = cls_token.shape == (1, 1, *width) and position.dim() == 3 and position.shape[::2] == (1, *width)
    before = 1
    if fits:
        before = positions_before(position.shape[1], "dist_token" in official, source.grid, model.stem.grid)
    if not fits or position.shape[1] <= before:
        shapes = f"{tuple(cls_token.shape)} and {tuple(position.shape)}"
        raise UserError(
            f"{source.path}: {cls_key} and {key} are {shapes}; they should be (1, 1, D) and (1, {before} + N, D)"
        )
    if before == 0:
        yield Fill(cls_key, "stem.class_token", cls_token[0, 0], "copied: the file has no position for it")
    else:
        class_token = cls_token[0, 0] + position[0, 0]
        yield Fill(cls_key, "stem.class_token", class_token, "its position is added to it")
        yield Fill(key, "stem.class_token", class_token, "position 0, added to the class token")
    patches, target = position[0, before:], model.stem.grid
    grid = grid_of(source, key, len(patches), source.grid, target, squares_first=True)
    if grid is None:
        yield Fill(key, "stem.position", patches, "copied")  # refused later for its shape
    else:
        yield Fill(key, "stem.position", resize_position(patches, target, grid), positions.action(grid, target))


def positions_before(places: int, distilled: bool, known: positions.Grid | None, target: positions.Grid) -> int:
    """Return the number of positions before the patches': of the class token and the distillation token, or 0."""
    usual = 2 if distilled else 1
    if known is not None:
        return 0 if places == math.prod(known) else usual
    if places - usual in (math.prod(target), math.isqrt(max(0, places - usual)) ** 2):
        return usual
    return 0 if math.isqrt(places) ** 2 == places else usual


def fills_of_block(official: dict[str, Stored], index: int, block: str, silence_time: bool) -> Iterator[Fill]:
    """Yield one block. A ViT's spatial attention also fills the temporal one, whose output `silence_time` zeroes."""
    for suffix, ours in BLOCK_KEYS.items():
        name = f"blocks.{index}.{suffix}"
        if name in official:
            key, value = official[name]
            yield Fill(key, f"{block}.{ours}", value, "copied")
        elif suffix in LAYER_SCALE_KEYS:
            continue  # the model has none either
        elif not suffix.startswith("temporal_fc."):
            key, value = official[name.replace("temporal_", "")]
            yield Fill(key, f"{block}.{ours}", value, "copied from spatial attention")
        elif silence_time:
            key, value = official[f"blocks.{index}.attn.{suffix.replace('temporal_fc', 'proj')}"]
            yield Fill(
                NO_KEY, f"{block}.{ours}", torch.zeros_like(value), "zero: silences temporal attention at the start"
            )
