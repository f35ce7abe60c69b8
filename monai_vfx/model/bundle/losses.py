"""Discrete-time hazards: the joint loss of a training, and the yearly risks of an evaluation.

The follow-up is cut into years. The hazard h_k is the probability of a fracture in year k, that is
in (k - 1, k] years after the CT, for a patient who reached it without one. Source: Gensheimer &
Narasimhan 2019, PeerJ 7:e6257, section "Model".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 2
"""Logits of the binary head, which stand before the hazard logits."""


def hazard_loss(hazard: Tensor, years: Tensor, event: Tensor) -> Tensor:
    """Negative log likelihood of the follow-up, the mean over patients.

    A fracture in year k contributes log h_k + Σ_{j<k} log(1 - h_j); an end without fracture
    contributes Σ log(1 - h_j) over the years that were survived to their end. A death is no such
    end, see :func:`monai_vfx.model.bundle.cohort.follow_up`. What happens after the last year
    counts as surviving all.

    Args:
        hazard: (B, K) logits of the yearly hazards.
        years: (B,) follow-up in years, at least 0.
        event: (B,) 1 where it ended with a fracture, else 0.

    Returns:
        A scalar.

    >>> half = torch.zeros(1, 2)  # h = 1/2 each year; a fracture in the second: (1 - 1/2) · 1/2
    >>> hazard_loss(half, torch.tensor([1.5]), torch.tensor([1.0])).exp()
    tensor(4.)
    """
    last = hazard.shape[1]
    year = torch.arange(1, last + 1, device=hazard.device)  # (K,)
    fractured = torch.where(event > 0, years.ceil().clamp(min=1), years.new_full((), last + 1))
    survived = torch.where(event > 0, fractured - 1, years.floor())
    alive = (year <= survived[:, None]).to(hazard.dtype)  # (B, K): lived through without a fracture
    broke = (year == fractured[:, None]).to(hazard.dtype)
    likelihood = alive * F.logsigmoid(-hazard) + broke * F.logsigmoid(hazard)
    return -likelihood.sum(dim=1).mean()


def yearly_risk(hazard: Tensor) -> Tensor:
    """Return the risk up to the end of each year, 1 - Π_{j≤k} (1 - h_j), from logits (B, K).

    >>> yearly_risk(torch.zeros(1, 3))
    tensor([[0.5000, 0.7500, 0.8750]])
    """
    return -torch.expm1(F.logsigmoid(-hazard.float()).cumsum(dim=1))


class JointLoss(nn.Module):
    """Cross-entropy of the binary head plus the hazard head's negative log likelihood."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return a scalar.

        Args:
            pred: (B, 2 + K) logits of both heads.
            target: (B, 3): label, follow-up in years, 1 for a fracture at its end.
        """
        label, years, event = target.unbind(dim=1)
        binary = F.cross_entropy(pred[:, :CLASSES].float(), label.long())
        return binary + hazard_loss(pred[:, CLASSES:].float(), years, event)
