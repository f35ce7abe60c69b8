"""Decision curve: net benefit of treating by predicted risk over a range of thresholds.

Treating from a risk of t on accepts (1 - t) / t needless treatments for one useful one. Net benefit
counts true positives and charges false positives at that rate, per patient (Vickers and Elkin
2006).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.estimates import check_outcome, check_risks
from monai_vfx.core.arrays import Json

THRESHOLDS = tuple(percent / 100 for percent in range(1, 51))
"""Risks of 1 % to 50 %; nobody would wait for more before treating."""


def decision_curve(
    y: npt.ArrayLike,
    risk: npt.ArrayLike,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    prevalence: float | None = None,
) -> list[Json]:
    """Return net benefit by threshold, with those of treating everybody and nobody.

    With sensitivity Se and specificity Sp of "risk ≥ t" and the prevalence π, net benefit is
    Se π - (1 - Sp) (1 - π) t / (1 - t).

    Args:
        y: (n,), 0 or 1, both present.
        risk: (n,), absolute risk, in [0, 1].
        thresholds: each in (0, 1).
        prevalence: share of patients who fracture, in (0, 1); by default that of ``y``. State it
            for a case-control sample, whose own share is an artefact of the sampling.

    Returns:
        For each threshold ``threshold``, ``net_benefit``, ``treat_all``, ``treat_none``.

    >>> decision_curve([0, 0, 0, 1], [0.1, 0.2, 0.6, 0.7], thresholds=[0.5])
    [{'threshold': 0.5, 'net_benefit': 0.0, 'treat_all': -0.5, 'treat_none': 0.0}]
    """
    outcome, named = check_outcome(y, risk=risk)
    risks, cuts = named["risk"], np.asarray(thresholds, np.float64)
    check_risks(risks)
    if not cuts.size or not ((cuts > 0) & (cuts < 1)).all():
        raise ValueError(f"thresholds ({list(thresholds)}) must be given and lie between 0 and 1")
    share = float(outcome.mean()) if prevalence is None else prevalence
    if not 0 < share < 1:
        raise ValueError(f"prevalence ({prevalence}) must lie between 0 and 1")
    positive = risks >= cuts[:, None]
    sensitivity, false_positive = positive[:, outcome].mean(1), positive[:, ~outcome].mean(1)
    harm = (1 - share) * cuts / (1 - cuts)
    columns = (cuts, sensitivity * share - false_positive * harm, share - harm)
    return [
        {"threshold": cut, "net_benefit": net, "treat_all": everybody, "treat_none": 0.0}
        for cut, net, everybody in zip(*(column.tolist() for column in columns), strict=True)
    ]
