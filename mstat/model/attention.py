"""Transformer layers that all blocks share: multi-head self-attention and the MLP.

Shapes: F independent sequences, S tokens in each, D width, h heads of d = D / h.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mstat.config import ModelConfig


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """Return a LayerNorm of tokens with the epsilon of the weights that it may receive."""
    return nn.LayerNorm(config.width, eps=config.norm_eps)


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x), OpenAI's approximation of GELU, with which CLIP was trained."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class LayerScale(nn.Module):
    """Multiply each channel by a learnable factor (Touvron et al., ICCV 2021), on the last dimension."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def layer_scale(config: ModelConfig) -> nn.Module:
    """Return the LayerScale of a residual, or the identity without one."""
    return nn.Identity() if config.layer_scale is None else LayerScale(config.width, config.layer_scale)


class Attend(nn.Module):
    """softmax(q k^T / sqrt(d)) v, by PyTorch's fused kernel: (F, h, Q, d), (F, h, S, d) twice -> (F, h, Q, d)."""

    def forward(self, q_FhQd: Tensor, k_FhSd: Tensor, v_FhSd: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q_FhQd, k_FhSd, v_FhSd)


class Attention(nn.Module):
    """Multi-head self-attention, SA of Eq. 1, scaled by 1/sqrt(d) before the softmax: (F, S, D) -> (F, S, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attend = Attend()
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x_FSD: Tensor) -> Tensor:
        qkv = self.qkv(x_FSD).unflatten(-1, (3, self.num_heads, -1))
        q_FhSd, k_FhSd, v_FhSd = qkv.permute(2, 0, 3, 1, 4)
        out_FhSd = self.attend(q_FhSd, k_FhSd, v_FhSd)
        return self.proj(out_FhSd.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an activation between them, on the last dimension."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = round(config.mlp_ratio * config.width)
        self.fc1 = nn.Linear(config.width, hidden)
        self.fc2 = nn.Linear(hidden, config.width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))
