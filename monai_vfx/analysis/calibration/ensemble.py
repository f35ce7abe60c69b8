"""How far the models of an ensemble disagree about a patient's risk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import t as student

Floats = npt.NDArray[np.float64]
RISK_LIMIT = 1e-6
"""Risks nearer to 0 or 1 are moved here, so that their logit is finite."""


def risk_interval(member_risks: npt.ArrayLike, *, confidence: float = 0.95) -> Floats:
    """Return the interval in which one more model of this kind would place each risk.

    Student's prediction interval of the members' logits, mean ± t √(1 + 1/m) SD, widened where
    needed to hold the mean risk. It is about models, not about outcomes: the folds of a
    cross-validation share most of their patients, so it is narrower than what training on other
    patients would give, and it says nothing of whether this patient will fracture.

    Args:
        member_risks: (m, n), risks of n patients by m >= 2 models, in [0, 1].
        confidence: level, in (0, 1).

    Returns:
        (n, 2) lower and upper bound, in (0, 1).

    Raises:
        ValueError: fewer than two models, or values outside [0, 1].

    >>> risk_interval([[0.1, 0.2], [0.1, 0.3], [0.1, 0.4]]).round(2).tolist()
    [[0.1, 0.1], [0.03, 0.83]]
    """
    risks = np.asarray(member_risks, np.float64)
    if risks.ndim != 2 or risks.shape[0] < 2:
        raise ValueError(f"member_risks has the shape {risks.shape}; (models >= 2, patients)")
    if not ((risks >= 0) & (risks <= 1)).all():
        raise ValueError("member_risks must lie in [0, 1]")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence ({confidence}) must lie between 0 and 1")
    members = len(risks)
    scale = logit(np.clip(risks, RISK_LIMIT, 1 - RISK_LIMIT))
    quantile = student.isf((1 - confidence) / 2, members - 1)
    half = quantile * np.sqrt(1 + 1 / members) * scale.std(axis=0, ddof=1)
    bounds = expit(scale.mean(axis=0) + np.stack([-half, half]))
    mean = risks.mean(axis=0)
    return np.column_stack([np.minimum(bounds[0], mean), np.maximum(bounds[1], mean)])
