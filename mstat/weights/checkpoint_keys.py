"""Keys of weights: rename those of Hugging Face's models and of OpenAI's CLIP to the official TimeSformer's.

TimeSformer's code is based on timm's, so a ViT of timm has the official keys, without the temporal ones. Those of
CLIP's norm before the blocks (`norm_pre`) and of DINOv2's LayerScale (`ls1`, `ls2`) are timm's. ViT variants with
modules that MSTAT lacks (register tokens, ...) are refused by these keys, not loaded in part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.weights.layouts import HUGGING_FACE, HUGGING_FACE_CLIP, OPENAI_CLIP, RENAMED, renamed
from mstat.weights.safe_load import named

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
LAYER_SCALE_KEYS = {"ls1.gamma": "spatial_scale.gamma", "ls2.gamma": "mlp_scale.gamma"}
BLOCK_KEYS = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in BLOCK_MODULES.items() for kind in KINDS}
BLOCK_KEYS |= LAYER_SCALE_KEYS
PATCH_BIAS = "patch_embed.proj.bias"  # CLIP has none
STEM_NORM_KEYS = {"norm_pre.weight", "norm_pre.bias"}
STEM_KEYS = {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight", "norm.bias"}
# Keys that MSTAT does not use, with the reason.
DROPPED = {
    "time_embed": "MSTAT has no temporal position",
    "dist_token": "MSTAT has no distillation token",
    **{f"{head}.{kind}": "a classifier of other classes" for head in ("head", "head_dist") for kind in KINDS},
    **{f"pre_logits.fc.{kind}": "part of a classifier" for kind in KINDS},
    "mask_token": "it replaces masked patches, which only pretraining has",
    "projection": "CLIP's projection to the space of its texts",
}
# Keys of ViT variants that would compute something else without them.
REFUSED = {
    r"fc_norm\..*": "it averages the tokens before its last norm",
    r"patch_embed\.norm\..*": "it has a norm in its patch embedding",
    r"reg_token|register_tokens": "it has register tokens, which its patches attend to",
    r"blocks\.\d+\.gamma_[12]": "it is a BEiT, whose LayerScale is not read",
    r"blocks\.\d+\.mlp\.w\d+\..*": "its MLP is a SwiGLU",
    r"blocks\.\d+\.attn\.[qk]_norm\..*": "it normalises queries and keys",
    r"blocks\.\d+\.(attn|mlp)\.norm\..*": "it has norms inside attention or MLP",
    r"blocks\.\d+\.attn\.(relative_position.*|rel_pos.*|[qv]_bias)": "it has relative positions (BEiT)",
    r"attn_pool\..*": "it ends in attention pooling",
    r"decoder_.*": "it is a masked autoencoder with its decoder; save the encoder alone",
}

STEMS = ("patch_embed.proj.weight", *RENAMED, "stem.patch.weight")
# Parts that torch's wrappers insert into keys at any depth: torch.compile, FSDP, activation checkpointing.
WRAPPED = r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."


Pixels = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of red, green, blue
# Pixel mean and deviation of a model that starts from a file with temporal weights, and from one without.
PIXELS = {"divided": (0.45, 0.225), "none": (0.5, 0.5)}
IMAGENET: Pixels = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Pixels = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Stored(NamedTuple):
    """A tensor, and its key in the file."""

    key: str
    value: Tensor


class Bare(NamedTuple):
    """A state dict without prefixes.

    Attributes:
        stored: Tensors by key without prefix.
        taken: The removed parts of keys: the prefix, and what torch's wrappers insert in the middle.
        outside: Keys of the file that do not begin with the prefix, such as those of heads.
    """

    stored: dict[str, Stored]
    taken: list[str]
    outside: list[str]


def take_off_prefix(path: Path, tensors: dict[str, Tensor]) -> Bare:
    """Find the model in a state dict by its patch embedding, and remove the prefix of its keys.

    Raises:
        UserError: If the state dict holds several models, such as a student and its teacher.
    """
    keys: dict[str, str] = {}
    for key in tensors:
        name = re.sub(WRAPPED, "", key)
        if name in keys:
            raise UserError(f"{path}: repeated keys: {named([keys[name], key])}")
        keys[name] = key
    prefixes = sorted({name.removesuffix(stem) for name in keys for stem in STEMS if f".{name}".endswith(f".{stem}")})
    if len(prefixes) > 1:
        models = named(map(repr, prefixes))
        raise UserError(f"{path}: holds several models, whose keys begin with {models}: save one of them alone")
    prefix = prefixes[0] if prefixes else ""
    inside = {name.removeprefix(prefix): key for name, key in keys.items() if name.startswith(prefix)}
    outside = [key for name, key in keys.items() if not name.startswith(prefix)]
    taken = {key.removesuffix(name) for name, key in inside.items() if key.endswith(name)} - {""}
    taken |= {match[0] for name, key in inside.items() if not key.endswith(name) and (match := re.search(WRAPPED, key))}
    return Bare({name: Stored(key, tensors[key]) for name, key in inside.items()}, sorted(taken), outside)


def to_official(
    path: Path, bare: dict[str, Stored], buffers: Iterable[str] = ()
) -> tuple[dict[str, Stored], dict[str, list[str]]]:
    """Rename the keys of a state dict to the official TimeSformer's, and refuse unknown and missing keys.

    Args:
        buffers: Keys of tensors that are not floats. The message names them if a missing weight is among them.

    Returns:
        The tensors by official name, and all keys of each tensor that joins several of the file, by the first one.
    """
    table = next((table for stem, table in RENAMED.items() if stem in bare), None)
    official: dict[str, Stored] = {}
    unknown = []
    for bare_name, stored in bare.items():
        name = bare_name if table is None else renamed(bare_name, table)
        if name is None or name in official:
            unknown.append(stored.key)
        else:
            official[name] = stored
    if unknown:
        raise UserError(f"{path}: unknown or repeated keys: {named(unknown)}")
    if "patch_embed.proj.weight" not in official:
        keys = [stored.key for stored in bare.values()] or list(buffers)
        raise UserError(f"{path}: not a TimeSformer, ViT or MSTAT; its keys are {named(keys) or 'none'}")
    for name, (key, _) in official.items():
        for pattern, why in REFUSED.items():
            if re.fullmatch(pattern, name):
                raise UserError(f"{path}: MSTAT cannot start from this ViT: {why} ({named([key])})")

    if table in (HUGGING_FACE_CLIP, OPENAI_CLIP):
        add_batch(official)
    parts = join_attention(path, official)
    suffixes = [
        suffix
        for suffix in BLOCK_KEYS
        if (has_time(official) or not suffix.startswith("temporal_"))
        and (has_layer_scale(official) or suffix not in LAYER_SCALE_KEYS)
    ]
    num_blocks = len({match[1] for name in official if (match := re.match(r"blocks\.(\d+)\.", name))})
    required = STEM_KEYS | {f"blocks.{i}.{suffix}" for i in range(num_blocks) for suffix in suffixes}
    required |= STEM_NORM_KEYS if has_stem_norm(official) else {PATCH_BIAS}
    refuse_keys(path, set(official), required, {*DROPPED, PATCH_BIAS}, buffers)
    return official, parts


def hugging_face_name(key: str) -> str | None:
    """Return the official key of a key of Hugging Face's TimeSformer, or None."""
    return renamed(key.removeprefix("timesformer."), HUGGING_FACE)


def add_batch(official: dict[str, Stored]) -> None:
    """Give CLIP's class token and positions, (D) and (1 + N, D), the dimensions of the official ones, in place."""
    for name, dim in (("cls_token", 1), ("pos_embed", 2)):
        if name in official and official[name].value.dim() == dim:
            key, value = official[name]
            official[name] = Stored(key, value.view(*[1] * (3 - dim), *value.shape))


def join_attention(path: Path, official: dict[str, Stored]) -> dict[str, list[str]]:
    """Join separate queries, keys and values to the official tensor, in place, and return their keys by the first."""
    joined: dict[str, list[str]] = {}
    for name in [name for name in official if re.fullmatch(r"blocks\.\d+\.attn\.q\.(weight|bias)", name)]:
        names = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if not all(part in official for part in names):
            continue  # refused later, as a missing key
        parts = [official.pop(part) for part in names]
        if not parts[0].value.dim() or len({part.value.shape for part in parts}) > 1:
            raise UserError(f"{path}: shapes differ: {named(part.key for part in parts)}")
        key = parts[0].key
        joined[key] = [part.key for part in parts]
        official[name.replace(".attn.q.", ".attn.qkv.")] = Stored(key, torch.cat([part.value for part in parts]))
    return joined


def has_time(official: Iterable[str]) -> bool:
    """Return whether the weights have temporal attention: a TimeSformer has, a plain ViT has not."""
    return any(".temporal_" in name for name in official)


def has_stem_norm(names: Iterable[str]) -> bool:
    """Return whether weights, by official names or ours, have a norm before the first block, as CLIP has."""
    return any(name.startswith(("norm_pre.", "stem.norm.")) for name in names)


def has_layer_scale(names: Iterable[str]) -> bool:
    """Return whether weights, by official names or ours, have LayerScale, as DINOv2 has."""
    return any(name.endswith((*LAYER_SCALE_KEYS, *LAYER_SCALE_KEYS.values())) for name in names)


def refuse_keys(
    path: Path, result: set[str], required: set[str], optional: set[str], buffers: Iterable[str] = ()
) -> None:
    """Raise a UserError if keys are unknown or missing, or if a required weight is not of floats."""
    unknown, missing = result - required - optional, required - result
    whole = [key for key in buffers if any(f".{key}".endswith(f".{name}") for name in missing)]
    if whole:
        raise UserError(f"{path}: weights are not floating-point: {named(whole)}")
    if unknown or missing:
        raise UserError(
            f"{path}: unknown keys: {named(sorted(unknown)) or 'none'}; "
            f"missing keys: {named(sorted(missing)) or 'none'}"
        )


def to_timesformer(weights: Mapping[str, Tensor], patch_size: int) -> dict[str, Tensor]:
    """Rename a classifier's weights to the official TimeSformer's keys, which `load_pretrained` reads.

    Our class token has no position of its own, so its row of `pos_embed` is 0.
    """
    position_ND = weights["stem.position"]
    patch_DK, bias_D = _patches(weights, *PIXELS["divided" if "time_position" in weights else "none"])
    official = {
        "cls_token": weights["stem.class_token"][None, None],
        "pos_embed": torch.cat([torch.zeros_like(position_ND[:1]), position_ND])[None],
        "patch_embed.proj.weight": patch_DK.unflatten(1, (3, patch_size, patch_size)),
        "patch_embed.proj.bias": bias_D,
    }
    if "time_position" in weights:
        official["time_embed"] = weights["time_position"][None]
    if "stem.norm.weight" in weights:
        official |= {f"norm_pre.{kind}": weights[f"stem.norm.{kind}"] for kind in KINDS}
    names = {ours: theirs for theirs, ours in BLOCK_KEYS.items()}
    for key, value in weights.items():
        stage, _, rest = key.partition(".blocks.")
        index, _, ours = rest.partition(".")
        if stage == "stage1" and ours in names:
            official[f"blocks.{index}.{names[ours]}"] = value
    for kind in KINDS:
        official[f"norm.{kind}"] = weights[f"stage1.norm.{kind}"]
        official[f"head.{kind}"] = weights[f"head.{kind}"]
    return {name: value.contiguous() for name, value in official.items()}


def _patches(weights: Mapping[str, Tensor], mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Return the patch embedding for pixels that are normalised by `mean` and `std`.

    The weights are unchanged unless `model.init` came with another normalisation, as DeiT does.
    """
    weight_DK, bias_D = weights["stem.patch.weight"], weights["stem.patch.bias"]
    own_mean_3, own_std_3 = weights["stem.pixel_mean"], weights["stem.pixel_std"]
    if bool((own_mean_3 == mean).all() and (own_std_3 == std).all()):
        return weight_DK, bias_D
    of_colour_D3P = weight_DK.unflatten(1, (3, -1)) / own_std_3[:, None]
    offset_D = (of_colour_D3P * (mean - own_mean_3)[:, None]).sum((1, 2))
    return (of_colour_D3P * std).flatten(1), bias_D + offset_D
