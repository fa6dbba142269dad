"""Start from somebody's weights: TimeSformer (official or Hugging Face), a plain ViT, or an MSTAT of our own.

`mstat.weights.source` reads what a user names. All foreign layouts are first renamed to the official TimeSformer's
names (`mstat.weights.checkpoint_keys`), and one table leads from there to ours. Every key of a file and every tensor of
ours is accounted for; nothing is loaded before all of it fits. No code in a checkpoint is run
(`mstat.weights.safe_load`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    DROPPED,
    KINDS,
    Stored,
    has_time,
    refuse_keys,
    take_off_prefix,
    to_official,
)
from mstat.weights.positions import resize_position
from mstat.weights.safe_load import named, printable
from mstat.weights.source import Source, read_source

NO_KEY = "-"  # stands in a row for what comes from no key of the file
NOWHERE = "dropped"  # stands in a row for a tensor of ours
KEPT = "keeps its own start"


class Row(NamedTuple):
    """The fate of one key of the file, or the origin of one tensor of the model.

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
    """Fill `model` in place from a file or folder; what that does not have keeps its random start.

    What may be given: `mstat.weights.source`. Blocks are taken in order: Stage I first, then Stage II; Stage III copies
    what Stage II takes. The layout is told by the keys, whatever prefix they have; the container by the suffix
    (`.safetensors`, else a torch file, read with `weights_only=True`). Pixel normalisation comes with the weights where
    they tell it: TimeSformer's 0.45 / 0.225, ImageNet's of a distilled ViT (DeiT); another ViT keeps our 0.5 / 0.5,
    which is that of most of timm's.

    Returns:
        One row or more for every key of the file and every tensor of the model, and one for each thing that was decided
        on the way (key and name are then NO_KEY). On the meta device nothing is filled, and the rows are the same.

    Raises:
        UserError: The file is missing or holds more than plain tensors, its layout is unknown, keys are unknown or
            missing, shapes do not fit, numbers are not finite. The model is untouched then.
    """
    source = read_source(Path(path))
    path, tensors = source.path, {key: value.float() for key, value in source.tensors.items()}
    bare = take_off_prefix(path, tensors)
    source.notes += [f"{printable(prefix)!r} taken off the keys" for prefix in bare.taken]
    rows = [Row(printable(name), NOWHERE, why) for name, why in source.others.items()]
    rows += [Row(key, NOWHERE, "beside the model") for key in bare.outside]
    state = model.state_dict()
    if "stem.patch.weight" in bare.stored:
        refuse_keys(path, set(bare.stored), set(state), set(), source.others)
        fills = list(fills_from_own(model, bare.stored, source))
    else:
        official = to_official(path, bare.stored, source.others)
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
        raise UserError(f"{path}: shapes do not fit the model section of the config: {named(wrong)}")
    if broken := [fill.key for fill in fills if not fill.value.isfinite().all()]:
        raise UserError(f"{path}: holds numbers that are not finite: {named(dict.fromkeys(broken))}")
    for fill in fills:
        state[fill.ours].copy_(fill.value)
        rows.append(Row(fill.key, fill.ours, fill.action))
    filled = {fill.ours for fill in fills}
    rows += [Row(NO_KEY, ours, KEPT) for ours in state if ours not in filled]
    if cast := sorted({str(value.dtype).removeprefix("torch.") for value in source.tensors.values()} - {"float32"}):
        source.notes.append(f"weights of {' and '.join(cast)} made float32")
    notes = [Row(NO_KEY, NO_KEY, note) for note in source.notes]
    return [row._replace(shape=tuple(tensors[row.key].shape)) if row.key in tensors else row for row in rows] + notes


def fills_from_own(model: MSTAT, bare: dict[str, Stored], source: Source) -> Iterator[Fill]:
    """All of another MSTAT, whose frames may have another size: what belongs to a patch is resized as a grid."""
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
    """The grid that so many places are, with a note where it was guessed; None where none fits."""
    grid, guess = positions.source_grid(places, known, target, squares_first)
    if grid is None and known is not None:
        raise UserError(
            f"{source.path}: {key} has {places} places, and what lies beside the weights says "
            f"{known[0]} x {known[1]} patches"
        )
    if grid is None and guess is not None:
        raise UserError(f"{source.path}: {key} has {places} places, {guess}")
    if guess is not None:
        source.notes.append(guess)
    return grid


def fills_from_official(model: MSTAT, source: Source, official: dict[str, Stored]) -> Iterator[Fill]:
    """All that a TimeSformer or a ViT gives to `model`."""
    first, second, third = block_counts(model.config)
    blocks = [(i, f"stage1.blocks.{i}") for i in range(first)]
    blocks += [(first + i, f"stage2.blocks.{i}") for i in range(second)]
    blocks += [(first + i, f"stage3.blocks.{i}") for i in range(third)]
    absent = sorted({i for i, _ in blocks if f"blocks.{i}.norm1.weight" not in official})
    if absent:
        raise UserError(
            f"{source.path}: has no blocks {absent}, which this model needs: see model.depths and model.iap"
        )
    for i, block in blocks:
        # An A-STA is silent by its alpha = 0; were its last layer 0 too, neither would ever get a gradient.
        silence_time = not isinstance(model.get_submodule(block), AttributeSTA)
        yield from fills_of_block(official, i, block, silence_time)

    key, kernel = official["patch_embed.proj.weight"]
    yield Fill(key, "stem.patch.weight", kernel.flatten(1) if kernel.dim() > 1 else kernel, "flattened")
    key, bias = official["patch_embed.proj.bias"]
    yield Fill(key, "stem.patch.bias", bias, "copied")
    yield from fills_of_tokens(model, source, official)
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


def fills_of_tokens(model: MSTAT, source: Source, official: dict[str, Stored]) -> Iterator[Fill]:
    """Class token and positions. The class token's own position is added to it; a distillation token's is left out."""
    cls_key, cls_token = official["cls_token"]
    key, position = official["pos_embed"]
    width = cls_token.shape[-1:]
    fits = cls_token.shape == (1, 1, *width) and position.dim() == 3 and position.shape[::2] == (1, *width)
    before = 1
    if fits:
        before = places_before(position.shape[1], "dist_token" in official, source.grid, model.stem.grid)
    if not fits or position.shape[1] <= before:
        shapes = f"{tuple(cls_token.shape)} and {tuple(position.shape)}"
        raise UserError(
            f"{source.path}: {cls_key} and {key} are {shapes}; they should be (1, 1, D) and (1, {before} + N, D)"
        )
    if before == 0:
        yield Fill(cls_key, "stem.class_token", cls_token[0, 0], "copied: it has no position of its own")
    else:
        class_token = cls_token[0, 0] + position[0, 0]
        yield Fill(cls_key, "stem.class_token", class_token, "its position added to it")
        yield Fill(key, "stem.class_token", class_token, "place 0, added to the class token")
    patches, target = position[0, before:], model.stem.grid
    grid = grid_of(source, key, len(patches), source.grid, target, squares_first=True)
    if grid is None:
        yield Fill(key, "stem.position", patches, "copied")  # its shape is refused
    else:
        yield Fill(key, "stem.position", resize_position(patches, target, grid), positions.action(grid, target))


def places_before(places: int, distilled: bool, known: positions.Grid | None, target: positions.Grid) -> int:
    """Positions before those of the patches: of the class token, and of the distillation token; or none."""
    usual = 2 if distilled else 1
    if known is not None:
        return 0 if places == math.prod(known) else usual
    if places - usual in (math.prod(target), math.isqrt(max(0, places - usual)) ** 2):
        return usual
    return 0 if math.isqrt(places) ** 2 == places else usual


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
