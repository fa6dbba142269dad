"""The exponential moving average of the trained weights (`train.ema`), which is scored and exported in their place."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The average of a module's parameters and floating-point buffers over the steps, from their current values on.

    BNNeck's running statistics are buffers, averaged like weights, as by timm's ModelEmaV3. Under ZeRO-3 each rank
    averages its own part of each parameter. An average is elementwise, so it is the same on any number of ranks.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.tensors = [tensor.detach().clone() for tensor in self._current()]

    def _current(self) -> list[Tensor]:
        """Return the tensors that training updates. DeepSpeed replaces their memory, so they are listed anew."""
        tensors = chain(self.module.parameters(), self.module.buffers())
        return [getattr(tensor, "ds_tensor", tensor) for tensor in tensors if tensor.is_floating_point()]

    def update(self, step: int) -> None:
        """Add the weights after `step` (from 0).

        The decay rises to its value, because the first weights say little of the later ones:
        min(decay, (1 + step) / (10 + step)), as in TensorFlow's `tf.train.ExponentialMovingAverage`.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.tensors, self._current(), step)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again at the module's current values."""
        for average, current in zip(self.tensors, self._current(), strict=True):
            average.copy_(current)

    def swap(self) -> None:
        """Exchange the module's values and the average, by their memory: nothing is copied."""
        for average, current in zip(self.tensors, self._current(), strict=True):
            average.data, current.data = current.data, average.data
