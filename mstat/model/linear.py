"""nn.Linear at full speed on CPUs of other makers than Intel.

PyTorch computes fp32 products on CPUs with MKL, which uses half of the vector units' rate on AMD. Convolutions use
oneDNN, which checks the processor's features, not its maker. A 1 x 1 convolution over a line of pixels is a linear
layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEWEST_ROWS = 512  # with fewer rows, the setup of a convolution costs more than it saves


class Linear(nn.Linear):
    """Linear layer on the last dimension, a drop-in for nn.Linear."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Apply the layer times `scale` (1,). The scale multiplies the weights, which are fewer than the outputs."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if scale is not None:
            weight, bias = scale * weight, None if bias is None else scale * bias
        rows = x.shape[:-1].numel()
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or rows < FEWEST_ROWS:
            return F.linear(x, weight, bias)
        kernel_DK11 = weight[:, :, None, None]
        pixels_1KR1 = x.reshape(1, rows, 1, -1).permute(0, 3, 1, 2)  # channels last, the layout of x
        compiling = torch.compiler.is_compiling()  # it supports neither this operator nor the number of threads
        if not (torch.is_grad_enabled() or compiling):
            out_1DR1 = torch.mkldnn_convolution(pixels_1KR1, kernel_DK11, bias, (0, 0), (1, 1), (1, 1), 1)
        elif compiling or torch.get_num_threads() > 1:
            out_1DR1 = F.conv2d(pixels_1KR1, kernel_DK11, bias)
        else:
            return F.linear(x, weight, bias)  # with one thread conv2d would use MKL, too, and take longer
        return out_1DR1.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
