"""Conventional implementation of MSTAT, with copied weights: the rival of the training step.

Blocks are unmodified layers of `transformers`' TimeSformer with eager attention; proxies are plain PyTorch; pixels are
normalised as floats and embedded by a convolution. It computes the same function, with tokens in Hugging Face's order:
class token first, then (row, column, frame).

Shapes: B clips, T frames, H x W pixels, N patches a frame, S = 1 + N T tokens of a clip, D width, A proxies,
M prototypes, h heads of d = D / h, F sequences side by side.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimeSformerAttention,
    TimesformerLayer,
    TimesformerPatchEmbeddings,
)

from mstat.config import ModelConfig
from mstat.model import MSTAT
from mstat.model.stem import patch_grid

EPS = 1e-6
ATTENTION = {"attention.qkv": "attention.attention.qkv", "attention.proj": "attention.output.dense"}
LAYER = {
    "temporal.norm": "temporal_layernorm",
    "temporal.attention.qkv": "temporal_attention.attention.qkv",
    "temporal.attention.proj": "temporal_attention.output.dense",
    "temporal.fc": "temporal_dense",
    "spatial_norm": "layernorm_before",
    "spatial.qkv": "attention.attention.qkv",
    "spatial.proj": "attention.output.dense",
    "mlp_norm": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


class EagerAttributes(nn.Module):
    """AAP: learnable queries attend over tokens, (F, S, D) -> (F, A, D)."""

    def __init__(self, width: int, num_heads: int, num_proxies: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (width // num_heads) ** -0.5
        self.proxies = nn.Parameter(torch.empty(num_proxies, width))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        kv = self.kv(self.norm(x)).reshape(batch, length, 2, self.num_heads, width // self.num_heads)
        key, value = kv.permute(2, 0, 3, 1, 4)
        query = self.proxies.reshape(-1, self.num_heads, width // self.num_heads).transpose(0, 1)
        probs = ((query @ key.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((probs @ value).transpose(1, 2).reshape(batch, -1, width))


class EagerPrototypes(nn.Module):
    """IAP: a doubly normalised map of learnable keys and tokens, read out at the class token, (B, S, D) -> (B, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.iap_norm == "softmax-l1"
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.query = nn.Linear(width, width, bias=False)
        self.keys = nn.Parameter(torch.empty(config.num_prototypes, width))
        self.values = nn.Parameter(torch.empty(config.num_prototypes, width))
        self.proj = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        heads = lambda t: t.reshape(*t.shape[:-1], self.num_heads, -1).transpose(-3, -2)  # noqa: E731
        query, key, value = heads(self.query(self.norm(x))), heads(self.keys), heads(self.values)
        attention = ((query * key.shape[-1] ** -0.5) @ key.transpose(-2, -1)).float().softmax(dim=-2)
        attention = attention / attention.sum(dim=-1, keepdim=True)
        out = (attention[:, :, :1] @ value).transpose(1, 2).reshape(x.shape[0], -1)
        cls = x[:, 0] + self.proj(out)
        return cls + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.mlp_norm(cls))))


class ByAttribute(nn.Module):
    """Replacement of a layer's temporal attention in which frames exchange attributes (A-STA)."""

    def __init__(self, config: ModelConfig, settings: TimesformerConfig) -> None:
        super().__init__()
        rows, columns = patch_grid(config)
        self.num_patches = rows * columns
        self.condense = EagerAttributes(config.width, config.num_heads, config.num_temporal_attributes)
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.attention = TimeSformerAttention(settings)
        self.expand = EagerAttributes(config.width, config.num_heads, self.num_patches)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        _, frames, width = x.shape
        x = x.reshape(-1, self.num_patches, frames, width).permute(0, 2, 1, 3)
        batch = x.shape[0]
        attributes = self.condense(x.reshape(batch * frames, self.num_patches, width))
        attributes = attributes.reshape(batch, frames, -1, width).permute(0, 2, 1, 3).reshape(-1, frames, width)
        mixed = self.attention(self.norm(attributes))[0]
        mixed = mixed.reshape(batch, -1, frames, width).permute(0, 2, 1, 3).reshape(batch * frames, -1, width)
        out = self.expand(mixed).reshape(batch, frames, self.num_patches, width)
        return (out.permute(0, 2, 1, 3).reshape(-1, frames, width),)


class ScaledLinear(nn.Linear):
    """A linear layer times alpha."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * super().forward(x)


class EagerMSTAT(nn.Module):
    """Conventional MSTAT: uint8 frames (B, T, H, W, 3) -> the features of three stages, as from `MSTAT`.

    Args:
        model: Model to copy the weights of. It needs all stages and proxies, and alpha = beta = 1 in the STA blocks.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: MSTAT, num_frames: int) -> None:
        super().__init__()
        config = model.config
        _, columns = patch_grid(config)
        settings = TimesformerConfig(
            image_size=columns * config.patch_size,  # a layer takes the number of columns from it
            patch_size=config.patch_size,
            num_frames=num_frames,
            hidden_size=config.width,
            num_attention_heads=config.num_heads,
            intermediate_size=round(config.mlp_ratio * config.width),
            hidden_dropout_prob=0.0,
            attn_implementation="eager",  # type: ignore[call-arg] # of its base class
        )
        self.num_frames = num_frames
        self.embed = TimesformerPatchEmbeddings(settings)
        self.position = nn.Parameter(torch.empty_like(model.stem.position))
        self.class_token = nn.Parameter(torch.empty_like(model.stem.class_token))
        self.register_buffer("pixel_mean", model.stem.pixel_mean.clone())
        self.register_buffer("pixel_std", model.stem.pixel_std.clone())

        def stack(depth: int) -> nn.ModuleList:
            return nn.ModuleList(TimesformerLayer(settings, 0) for _ in range(depth))

        first, second, third = config.depths
        self.stage1, self.stage2, self.stage3 = stack(first), stack(second), stack(third)
        for layer in self.stage3:
            layer.temporal_layernorm = nn.Identity()
            layer.temporal_attention = ByAttribute(config, settings)
            layer.temporal_dense = ScaledLinear(config.width)
        self.stage3_class_token = nn.Parameter(torch.empty_like(model.stem.class_token))
        self.aap = EagerAttributes(config.width, config.num_heads, config.num_attributes)
        self.iap2, self.iap3 = EagerPrototypes(config), EagerPrototypes(config)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.width, eps=EPS) for _ in range(3))
        self.necks = nn.ModuleDict()  # `Task` reads them; the paper's model has none
        self.load_state_dict({eager_name(name): value for name, value in _weights(model).items()})

    def forward(
        self, frames: Tensor, tps_BTN: Tensor | None = None, keep_BR: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        assert tps_BTN is keep_BR is None, "the rival has neither patch shuffling nor drop path"
        pixels = frames.permute(0, 1, 4, 2, 3).float() / 255
        pixels = (pixels - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        patches, num_frames, _ = self.embed(pixels)
        patches = patches + self.position
        batch, width = frames.shape[0], patches.shape[-1]
        tokens = patches.reshape(batch, num_frames, -1, width).permute(0, 2, 1, 3).reshape(batch, -1, width)
        x = torch.cat((self.class_token.expand(batch, 1, -1), tokens), dim=1)
        for layer in self.stage1:
            x = layer(x)[0]
        y, z = x, torch.cat((self.stage3_class_token.expand(batch, 1, -1), x[:, 1:]), dim=1)
        for layer in self.stage2:
            y = layer(y)[0]
        for layer in self.stage3:
            z = layer(z)[0]
        features = (self.norm1(self.aap(x)).flatten(1), self.norm2(self.iap2(y)), self.norm3(self.iap3(z)))
        return tuple(feature.float() for feature in features)


def _weights(model: MSTAT) -> dict[str, Tensor]:
    """Return the model's weights in the rival's shapes, without those that the rival lacks."""
    weights = {name: value for name, value in model.state_dict().items() if not name.endswith("beta")}
    weights = {name: value for name, value in weights.items() if not re.fullmatch(r"stage[12].*alpha", name)}
    kernel = weights["stem.patch.weight"]
    weights["stem.patch.weight"] = kernel.unflatten(1, (3, model.config.patch_size, model.config.patch_size))
    return weights


def eager_name(name: str) -> str:
    """Return the rival's name of one of our weights."""
    name = name.replace("stem.patch.", "embed.projection.").replace("stem.pixel_", "pixel_")
    name = name.replace("stem.position", "position").replace("stem.class_token", "class_token")
    name = name.replace("stage3.class_token", "stage3_class_token").replace("stage1.aap.", "aap.")
    name = re.sub(r"stage([23])\.iap\.", r"iap\1.", name)
    name = re.sub(r"stage(\d)\.norm\.", r"norm\1.", name)
    if match := re.fullmatch(r"(stage\d)\.blocks\.(\d+)\.(.*)", name):
        stage, index, rest = match.groups()
        return f"{stage}.{index}.{_in_layer(rest, by_attribute=stage == 'stage3')}"
    return name


def _in_layer(rest: str, by_attribute: bool) -> str:
    """Return the name inside a layer of Hugging Face's model."""
    module, _, kind = rest.rpartition(".")
    if by_attribute and module.startswith("temporal.") and module != "temporal.fc":
        inner = module.removeprefix("temporal.")
        return f"temporal_attention.{ATTENTION.get(inner, inner)}.{kind}"
    return f"{LAYER[module]}.{kind}" if module else "temporal_dense.alpha"
