"""The stem: pixels -> tokens. Pixels are normalised on the device, so that clips can be sent as uint8.

Shapes: B clips, T frames, H x W pixels, C colours, N patches a frame, K = 3 P^2 numbers in a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mstat.config import ModelConfig
from mstat.model.attention import layer_norm

INIT_STD = 0.02


def patch_grid(config: ModelConfig) -> tuple[int, int]:
    """Return the rows and columns of patches in a frame; N is their product."""
    height, width = config.image_size
    return height // config.patch_size, width // config.patch_size


def sinusoid(grid: tuple[int, int], width: int) -> Tensor:
    """Return sines and cosines of each patch's row and column, (N, D): initial values of the learnable positions.

    In training from scratch, noise of std 0.02 would hide a patch's place from the first layers. A checkpoint
    overwrites them.
    """
    if torch.get_default_device().type == "meta":  # its arithmetic would import torch.compile, which takes a second
        return torch.empty(grid[0] * grid[1], width)
    num_rates = -(-width // 4)
    rates = 10_000 ** (-torch.arange(num_rates) / num_rates)
    row_N, column_N = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    angles = [index_N.reshape(-1, 1) * rates for index_N in (row_N, column_N)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)[:, :width].clone()


def shuffle(values_BNT: Tensor, tps_BTN: Tensor) -> Tensor:
    """Shuffle patches over time (Sec. III-E): take value (n, t) of a clip from its frame `tps_BTN[t, n]`.

    Args:
        values_BNT: Values of shape (B, N, T, ...).
    """
    source_BNT = tps_BTN.transpose(1, 2)
    return torch.take_along_dim(values_BNT, source_BNT.view(*source_BNT.shape, *[1] * (values_BNT.dim() - 3)), dim=2)


class Stem(nn.Module):
    """Patch embedding, spatial position, temporal patch shuffling, and the first class token (Sec. III-A, III-E).

    With `config.stem_norm`, a LayerNorm follows, as in CLIP.

    There is no temporal position: the model does not know the order of the frames.

    A patch is laid out as (colour, row, column) and embedded by a linear layer, so that the layer's weight is the
    flattened (D, 3, P, P) kernel of a convolutional patch embedding.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.grid = patch_grid(config)
        self.patch_size = config.patch_size
        self.patch = nn.Linear(3 * config.patch_size**2, config.width)
        self.position = nn.Parameter(sinusoid(self.grid, config.width))
        self.class_token = nn.Parameter(torch.empty(config.width))
        nn.init.trunc_normal_(self.class_token, std=INIT_STD)
        self.norm = layer_norm(config) if config.stem_norm else None
        # Saved with the weights, since the right normalisation depends on their origin.
        self.register_buffer("pixel_mean", torch.full((3,), 0.5))
        self.register_buffer("pixel_std", torch.full((3,), 0.5))

    def forward(self, frames_BTHWC: Tensor, tps_BTN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return tokens (B, N, T, D) and class token (B, D) of uint8 frames. `tps_BTN`: source frame of each token."""
        batch, frames = frames_BTHWC.shape[:2]
        (rows, columns), side = self.grid, self.patch_size
        patches = frames_BTHWC.reshape(batch, frames, rows, side, columns, side, 3).permute(0, 2, 4, 1, 6, 3, 5)
        patches_BNTCP = patches.reshape(batch, rows * columns, frames, 3, side * side)
        if tps_BTN is not None:
            # Embedding and position are equal for all frames, so shuffling bytes shuffles the tokens, but moves
            # fewer bytes and needs no backward pass.
            patches_BNTCP = shuffle(patches_BNTCP, tps_BTN)
        pixels_BNTCP = (patches_BNTCP - 255 * self.pixel_mean[:, None]) / (255 * self.pixel_std[:, None])
        tokens_BNTD = self.patch(pixels_BNTCP.flatten(3)) + self.position[:, None]
        class_D = self.class_token
        if self.norm is not None:
            tokens_BNTD, class_D = self.norm(tokens_BNTD), self.norm(class_D)
        return tokens_BNTD, class_D.repeat(batch, 1)  # a copy, because blocks are compiled for one layout
