"""Keys of weights: rename those of Hugging Face's TimeSformer and timm's ViT to the official TimeSformer's.

TimeSformer's code is based on timm's, so a ViT of timm has the official keys, without the temporal ones. ViT variants
with modules that MSTAT lacks (registers, LayerScale, ...) are refused by these keys, not loaded in part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mstat.errors import UserError
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
BLOCK_KEYS = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in BLOCK_MODULES.items() for kind in KINDS}
STEM_KEYS = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
# Keys that MSTAT does not use, with the reason.
DROPPED = {
    "time_embed": "MSTAT has no temporal position",
    "dist_token": "MSTAT has no distillation token",
    **{f"{head}.{kind}": "a classifier of other classes" for head in ("head", "head_dist") for kind in KINDS},
    **{f"pre_logits.fc.{kind}": "part of a classifier" for kind in KINDS},
}
# Keys of ViT variants that would compute something else without them.
REFUSED = {
    r"fc_norm\..*": "it averages the tokens before its last norm",
    r"norm_pre\..*": "it has a norm before its first block",
    r"patch_embed\.norm\..*": "it has a norm in its patch embedding",
    r"reg_token": "it has register tokens",
    r"blocks\.\d+\.ls[12]\..*|blocks\.\d+\.gamma_[12]": "it has LayerScale",
    r"blocks\.\d+\.attn\.[qk]_norm\..*": "it normalises queries and keys",
    r"blocks\.\d+\.(attn|mlp)\.norm\..*": "it has norms inside attention or MLP",
    r"blocks\.\d+\.attn\.(relative_position.*|rel_pos.*|[qv]_bias)": "it has relative positions (BEiT)",
    r"attn_pool\..*": "it ends in attention pooling",
    r"decoder_.*|mask_token": "it is a masked autoencoder with its decoder; save the encoder alone",
}

# Hugging Face's key -> the official one, without the model's own prefix.
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


# The patch embedding identifies a layout: official or timm's, Hugging Face's, ours.
HUGGING_FACE_STEM = "embeddings.patch_embeddings.projection.weight"
STEMS = ("patch_embed.proj.weight", HUGGING_FACE_STEM, "stem.patch.weight")
# Parts that torch's wrappers insert into keys at any depth: torch.compile, FSDP, activation checkpointing.
WRAPPED = r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."


# Pixel mean and deviation of a model that starts from a file with temporal weights, and from one without.
PIXELS = {"divided": (0.45, 0.225), "none": (0.5, 0.5)}


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


def to_official(path: Path, bare: dict[str, Stored], buffers: Iterable[str] = ()) -> dict[str, Stored]:
    """Rename the keys of a state dict to the official TimeSformer's, and refuse unknown and missing keys.

    Args:
        buffers: Keys of tensors that are not floats. The message names them if a missing weight is among them.
    """
    hugging_face = HUGGING_FACE_STEM in bare
    official: dict[str, Stored] = {}
    unknown = []
    for bare_name, stored in bare.items():
        name = hugging_face_name(bare_name) if hugging_face else bare_name
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

    suffixes = [suffix for suffix in BLOCK_KEYS if has_time(official) or not suffix.startswith("temporal_")]
    num_blocks = len({match[1] for name in official if (match := re.match(r"blocks\.(\d+)\.", name))})
    required = STEM_KEYS | {f"blocks.{i}.{suffix}" for i in range(num_blocks) for suffix in suffixes}
    refuse_keys(path, set(official), required, set(DROPPED), buffers)
    return official


def hugging_face_name(key: str) -> str | None:
    """Return the official key of a Hugging Face key, or None."""
    for pattern, official in HUGGING_FACE:
        if match := re.fullmatch(pattern, key.removeprefix("timesformer.")):
            return match.expand(official)
    return None


def has_time(official: dict[str, Stored]) -> bool:
    """Return whether the weights have temporal attention: a TimeSformer has, a plain ViT has not."""
    return any(".temporal_" in name for name in official)


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
