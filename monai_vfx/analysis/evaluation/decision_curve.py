"""What a decision by predicted risk gains: net benefit over a range of thresholds.

Whoever treats from a risk of t on accepts (1 - t) / t needless treatments for one useful one. Net
benefit counts true positives and charges false positives at that rate, per patient
(Vickers and Elkin 2006).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.discrimination import check_outcome
from monai_vfx.core.arrays import Json

THRESHOLDS = tuple(percent / 100 for percent in range(1, 51))
"""Risks of 1 % to 50 %: nobody who fears a fracture would wait for more."""


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

    Raises:
        ValueError: on anything ``check_outcome`` rejects, a risk outside [0, 1], or a threshold
            or prevalence outside (0, 1).

    >>> decision_curve([0, 0, 0, 1], [0.1, 0.2, 0.6, 0.7], thresholds=[0.5])
    [{'threshold': 0.5, 'net_benefit': 0.0, 'treat_all': -0.5, 'treat_none': 0.0}]
    """
    import pandas as pd
    from dcurves import dca  # two seconds to import: it brings lifelines and statsmodels

    outcome, named = check_outcome(y, risk=risk)
    risks = named["risk"]
    if risks.min() < 0 or risks.max() > 1:
        raise ValueError(
            f"risk spans {risks.min()} to {risks.max()}; it must lie in [0, 1] (percent: / 100)"
        )
    cuts = [float(cut) for cut in thresholds]
    if not cuts or not all(0 < cut < 1 for cut in cuts):
        raise ValueError(f"thresholds ({cuts}) must be given and lie between 0 and 1")
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError(f"prevalence ({prevalence}) must lie between 0 and 1")
    rows = dca(
        data=pd.DataFrame({"fracture": outcome.astype(int), "risk": risks}),
        outcome="fracture",
        modelnames=["risk"],
        thresholds=cuts,
        prevalence=prevalence,
    )
    net = {name: part["net_benefit"].to_numpy(np.float64) for name, part in rows.groupby("model")}
    return [
        {
            "threshold": cut,
            "net_benefit": float(net["risk"][place]),
            "treat_all": float(net["all"][place]),
            "treat_none": float(net["none"][place]),
        }
        for place, cut in enumerate(cuts)
    ]
