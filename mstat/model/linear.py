"""nn.Linear, at the full rate of CPUs that are not Intel's.

PyTorch sends fp32 products on CPUs to MKL, which on AMD's uses half of what their vector units can do. Convolutions go
to oneDNN, which asks the processor and not its maker, and a 1 x 1 convolution over a line of pixels is a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEWEST_ROWS = 512  # below, setting up a convolution costs more than it gains


class Linear(nn.Linear):
    """A linear layer on the last dimension, as nn.Linear is."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """`scale` (1,) times the layer's output, by way of its weights: there are fewer of them than of tokens."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if scale is not None:
            weight, bias = scale * weight, None if bias is None else scale * bias
        rows = x.shape[:-1].numel()
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or rows < FEWEST_ROWS:
            return F.linear(x, weight, bias)
        kernel_DK11 = weight[:, :, None, None]
        pixels_1KR1 = x.reshape(1, rows, 1, -1).permute(0, 3, 1, 2)  # channels last, as x lies already
        compiling = torch.compiler.is_compiling()  # which knows neither this operator nor the number of threads
        if not (torch.is_grad_enabled() or compiling):
            out_1DR1 = torch.mkldnn_convolution(pixels_1KR1, kernel_DK11, bias, (0, 0), (1, 1), (1, 1), 1)
        elif compiling or torch.get_num_threads() > 1:
            out_1DR1 = F.conv2d(pixels_1KR1, kernel_DK11, bias)
        else:
            return F.linear(x, weight, bias)  # with one thread conv2d would go to MKL, too, and by a detour
        return out_1DR1.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
