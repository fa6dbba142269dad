"""Blocks that mix tokens over time, then over space: STA, and A-STA, whose temporal part works on attributes.

Tokens are (B, N, T, D), the layout of temporal attention. The spatial part needs a copy in any layout, because it
inserts the class token before each frame: (B, T, N + 1, D).

Shapes: B clips, N patches a frame, M = N + 1 tokens of a frame, T frames, D width, A attribute proxies,
F = B T frames of all clips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mstat.config import ModelConfig
from mstat.model.attention import MLP, Attention, layer_norm
from mstat.model.proxies import AAP
from mstat.model.stem import patch_grid


class TemporalBranch(nn.Module):
    """SA_t(LN(S)) of Eq. 3, and TimeSformer's linear layer after it: each position attends over its frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = layer_norm(config)
        self.attention = Attention(config)
        self.fc = nn.Linear(config.width, config.width)

    def forward(self, tokens_BNTD: Tensor) -> Tensor:
        mixed = self.attention(self.norm(tokens_BNTD).flatten(0, 1))
        return self.fc(mixed).view_as(tokens_BNTD)


class AttributeTemporalBranch(nn.Module):
    """A-STA's temporal part (Fig. 3b): condense each frame, attend over time by attribute, expand again.

    The second AAP has one proxy for each patch, so the block works only with the patch grid of its config.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows, columns = patch_grid(config)
        self.condense = AAP(config, config.num_temporal_attributes)
        self.norm = layer_norm(config)
        self.attention = Attention(config)
        self.expand = AAP(config, rows * columns)
        self.fc = nn.Linear(config.width, config.width)

    def forward(self, tokens_BNTD: Tensor) -> Tensor:
        batch, _, frames, _ = tokens_BNTD.shape
        attributes_FAD = self.condense(tokens_BNTD.transpose(1, 2).flatten(0, 1))
        attributes_BATD = attributes_FAD.unflatten(0, (batch, frames)).transpose(1, 2)
        mixed = self.attention(self.norm(attributes_BATD).flatten(0, 1))
        mixed_BTAD = mixed.view(attributes_BATD.shape).transpose(1, 2)
        expanded_FND = self.fc(self.expand(mixed_BTAD.flatten(0, 1)))
        return expanded_FND.unflatten(0, (batch, frames)).transpose(1, 2)


class STA(nn.Module):
    """Spatio-temporal aggregation (Eq. 3) and the Transformer's MLP, all pre-norm.

    With alpha = beta = 1 it is a divided space-time layer of TimeSformer.
    """

    recompute = False  # in the backward pass, see MSTAT.recompute_blocks

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.temporal = self.temporal_branch(config)
        self.alpha = nn.Parameter(torch.ones(1))
        self.spatial_norm = layer_norm(config)
        self.spatial = Attention(config)
        self.beta = nn.Parameter(torch.ones(1))
        self.mlp_norm = layer_norm(config)
        self.mlp = MLP(config)

    def temporal_branch(self, config: ModelConfig) -> nn.Module:
        """Make the module that mixes over time: (B, N, T, D) -> residual of the same shape."""
        return TemporalBranch(config)

    def forward(self, tokens_BNTD: Tensor, class_BD: Tensor, keep_B3: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Transform tokens (B, N, T, D) and class token (B, D).

        Args:
            keep_B3: Drop path multipliers of the temporal, spatial and MLP residual of each clip; None is ones.
        """
        keep_t, keep_s, keep_m = (None, None, None) if keep_B3 is None else keep_B3.unbind(1)
        _, positions, frames, _ = tokens_BNTD.shape

        tokens_BNTD = add(tokens_BNTD, self.temporal(tokens_BNTD), keep_t, self.alpha)

        copies_BT1D = class_BD[:, None, None].expand(-1, frames, -1, -1)
        joined_BTMD = torch.cat([copies_BT1D, tokens_BNTD.transpose(1, 2)], dim=2)
        mixed = self.spatial(self.spatial_norm(joined_BTMD).flatten(0, 1)).view_as(joined_BTMD)
        to_copies_BT1D, to_tokens_BTND = mixed.split([1, positions], dim=2)
        tokens_BNTD = add(tokens_BNTD, to_tokens_BTND.transpose(1, 2), keep_s, self.beta)
        class_BD = add(class_BD, to_copies_BT1D.mean((1, 2), dtype=class_BD.dtype), keep_s, self.beta)

        # One call: a second one for the class tokens would read all weights, and compute their gradients, twice.
        joined_BSD = torch.cat([self.mlp_norm(class_BD)[:, None], self.mlp_norm(tokens_BNTD).flatten(1, 2)], dim=1)
        mixed_BSD = self.mlp(joined_BSD)
        tokens_BNTD = add(tokens_BNTD, mixed_BSD[:, 1:].view_as(tokens_BNTD), keep_m)
        class_BD = add(class_BD, mixed_BSD[:, 0], keep_m)
        return tokens_BNTD, class_BD


class AttributeSTA(STA):
    """A-STA: an STA whose frames exchange attributes, not patches (Sec. III-C, Fig. 3b).

    alpha starts at `model.asta_alpha`, by default 0, so that random proxies do not disturb pretrained tokens. Alpha is
    then the only temporal parameter with a nonzero gradient in the first step.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        nn.init.constant_(self.alpha, config.asta_alpha)

    def temporal_branch(self, config: ModelConfig) -> nn.Module:
        return AttributeTemporalBranch(config)


def add(tokens: Tensor, residual: Tensor, keep_B: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """Return tokens + scale * residual, (B, ...), as in Eq. 3 with scale alpha or beta.

    Args:
        keep_B: Drop path multiplier of each clip's residual; None is ones.
        scale: (1,), learnable; None is 1.
    """
    if keep_B is not None:
        scale = keep_B if scale is None else scale * keep_B
    if scale is None:
        return tokens + residual
    return tokens + scale.view(-1, *[1] * (residual.dim() - 1)) * residual
