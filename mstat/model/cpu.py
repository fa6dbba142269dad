"""Faster kernels for a model on a CPU, applied to an existing model: `use_cpu_kernels(model)`.

PyTorch computes fp32 products on CPUs with MKL, which reaches half of the peak on AMD. Convolutions use oneDNN, which
checks the processor's features, not its vendor, and a 1 x 1 convolution over a line of pixels is a linear layer.
PyTorch's fused attention for CPUs is slower than plain products for short sequences.

The engine calls `use_cpu_kernels` for training and evaluation. A model that is exported, adapted (LoRA) or on a GPU
keeps PyTorch's own layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mstat.model.attention import Attend

FEWEST_ROWS = 512  # with fewer rows, the setup of a convolution costs more than it saves
SHORT = 256  # with at most so many keys, the whole score matrix is faster than PyTorch's fused kernel


def use_cpu_kernels(model: nn.Module) -> None:
    """Replace the kernels of linear layers and attention in `model`, in place; weights and their names stay.

    The results differ from PyTorch's layers only by rounding.
    """
    for module in model.modules():
        if faster := FASTER.get(type(module)):
            module.__class__ = faster


class CPULinear(nn.Linear):
    """nn.Linear with oneDNN, if that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[:-1].numel()
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or rows < FEWEST_ROWS:
            return super().forward(x)
        kernel_DK11 = self.weight[:, :, None, None]
        pixels_1KR1 = x.reshape(1, rows, 1, -1).permute(0, 3, 1, 2)  # channels last, the layout of x
        compiling = torch.compiler.is_compiling()  # it supports neither this operator nor the number of threads
        if not (torch.is_grad_enabled() or compiling):
            out_1DR1 = torch.mkldnn_convolution(pixels_1KR1, kernel_DK11, self.bias, (0, 0), (1, 1), (1, 1), 1)
        elif compiling or torch.get_num_threads() > 1:
            out_1DR1 = F.conv2d(pixels_1KR1, kernel_DK11, self.bias)
        else:
            return super().forward(x)  # with one thread conv2d would use MKL, too, and take longer
        return out_1DR1.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class CPUAttend(Attend):
    """Attention with plain products, if sequences are short."""

    def forward(self, q_FhQd: Tensor, k_FhSd: Tensor, v_FhSd: Tensor) -> Tensor:
        if q_FhQd.device.type != "cpu" or k_FhSd.shape[2] > SHORT:
            return super().forward(q_FhQd, k_FhSd, v_FhSd)
        scores_FhQS = q_FhQd @ k_FhSd.mT * q_FhQd.shape[-1] ** -0.5
        return scores_FhQS.softmax(-1) @ v_FhSd


FASTER: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: CPULinear, Attend: CPUAttend}
