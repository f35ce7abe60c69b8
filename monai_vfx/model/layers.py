"""Parts of the network: attention over a slice, decoders over slices.

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


class GRUDecoder(nn.Module):
    """Read the slices in order and keep the last state, of width ``hidden``."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, F) → (B, hidden)."""
        _, last = self.gru(x)  # (B, D, hidden), (1, B, hidden)
        state: Tensor = last.transpose(0, 1).flatten(1)
        return state


class MeanDecoder(nn.Module):
    """Average the slices, to measure what their order adds."""

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
