"""Parts of the network: attention over a slice, decoders over slices, taps for heat maps.

Sources: Jetley et al. 2018, "Learn to pay attention", arXiv 1804.02391 (attention); Chung et al.
2014 (GRU).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpatialAttention(nn.Module):
    """Weigh the positions of one encoder stage by their agreement with the global vector.

    With local vectors l_i and the global vector g, projected to the local width (Jetley et al.
    2018, section 3): score c_i = <u, l_i + g> (``pc``) or <l_i, g> (``dot``), attention
    a = softmax over positions, result Σ a_i l_i.

    Args:
        local_channels: width c of the stage.
        global_channels: width of the global vector.
        score: ``pc`` or ``dot``.
    """

    def __init__(self, local_channels: int, global_channels: int, score: str = "pc") -> None:
        super().__init__()
        self.additive = score == "pc"
        self.project = nn.Linear(global_channels, local_channels, bias=False)
        self.u = nn.Linear(local_channels, 1, bias=False) if self.additive else nn.Identity()

    def forward(self, local: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attended vector (N, c) and the attention (N, h, w), which sums to 1.

        Args:
            local: (N, c, h, w) features of the stage.
            pooled: (N, global_channels) average of the last stage.
        """
        n, _, h, w = local.shape
        positions = local.flatten(2).transpose(1, 2)  # (N, c, h, w) → (N, h·w, c)
        guide = self.project(pooled).unsqueeze(1)  # (N, 1, c)
        if self.additive:
            score = self.u(positions + guide).squeeze(-1)  # (N, h·w)
        else:
            score = (positions * guide).sum(dim=-1)  # (N, h·w)
        weight = score.float().softmax(dim=1).to(local.dtype)
        attended = torch.bmm(weight.unsqueeze(1), positions).squeeze(1)  # (N, c)
        return attended, weight.reshape(n, h, w)


class SlicePooling(nn.Module):
    """Weigh the slices of one patient by a learned score and add them up.

    Args:
        width: features a slice.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh())
        self.u = nn.Linear(width // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, R) → (B, R)."""
        weight = self.u(self.score(x)).float().softmax(dim=1).to(x.dtype)  # (B, D, 1)
        pooled: Tensor = (weight * x).sum(dim=1)
        return pooled


class GRUDecoder(nn.Module):
    """Read the slices in order.

    Args:
        features: width of a slice's vector.
        hidden: width R of the state.
        bidirectional: read both ways, giving 2·R.
        pooling: ``last`` state or ``attention`` over all states.
    """

    def __init__(self, features: int, hidden: int, bidirectional: bool, pooling: str) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True, bidirectional=bidirectional)
        width = hidden * (2 if bidirectional else 1)
        self.pool = SlicePooling(width) if pooling == "attention" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, F) → (B, R), or (B, 2·R) when bidirectional."""
        states, last = self.gru(x)  # (B, D, R), (directions, B, R)
        if self.pool is not None:
            pooled: Tensor = self.pool(states)
            return pooled
        joined: Tensor = last.transpose(0, 1).flatten(1)  # (B, directions·R)
        return joined


class MeanDecoder(nn.Module):
    """Average the slices: what the order of slices adds is measured against it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, F) → (B, F)."""
        return x.mean(dim=1)


def fold_slices(x: Tensor) -> Tensor:
    """(B, C, H, W, D) → (B·D, C, H, W): slices join the batch.

    >>> fold_slices(torch.arange(4).reshape(1, 1, 1, 2, 2)).flatten(1)
    tensor([[0, 2],
            [1, 3]])
    """
    _, c, h, w, _ = x.shape
    return x.permute(0, 4, 1, 2, 3).reshape(-1, c, h, w)


def unfold_slices(x: Tensor, depth: int) -> Tensor:
    """(B·D, C, H, W) → contiguous (B, C, H, W, D): the inverse of :func:`fold_slices`."""
    _, c, h, w = x.shape
    return x.reshape(-1, depth, c, h, w).permute(0, 2, 3, 4, 1).contiguous()


def is_watched(module: nn.Module) -> bool:
    """Tell whether somebody registered a hook on the module."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def watch(tap: nn.Module, x: Tensor) -> Tensor:
    """Send features (B, c, h, w, D) through a tap so that its hooks see contiguous tensors."""
    seen: Tensor = tap(x)
    if seen.requires_grad:  # the gradient too: MONAI's GradCAM flattens it with ``view``
        seen.register_hook(lambda grad: grad.contiguous())
    return seen
