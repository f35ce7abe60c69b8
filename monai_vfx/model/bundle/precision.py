"""Arithmetic in which a network is trained or run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor


class Bfloat16Inferer(SimpleInferer):
    """Run a network in mixed precision with bfloat16, on a CPU as on a GPU; logits are float32.

    MONAI's ``amp`` is for CUDA alone. Processors with AVX512-BF16 or AMX convolve about twice as
    fast so; others compute the same, slower. bfloat16 has float32's range, so no loss is scaled.

    Args:
        enabled: false leaves everything to the caller's arithmetic.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the network's output for images (B, C, x, y, z)."""
        if not self.enabled:
            return super().__call__(inputs, network, *args, **kwargs)
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            logits = super().__call__(inputs, network, *args, **kwargs)
        return logits.float()
