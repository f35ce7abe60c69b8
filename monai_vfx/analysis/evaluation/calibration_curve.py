"""Calibration: whether predicted absolute risks agree with observed outcomes.

For risks only: a score of a model trained on sampled controls is no risk before it is calibrated.

Sources: Cox 1958 and Miller 1993 (recalibration slope and intercept); Austin and
Steyerberg 2019 (integrated calibration index, ICI); Debray 2017 (interval of the ratio of
expected to observed events); Steyerberg 2010 (scaled Brier score).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from monai_vfx.analysis.evaluation.estimates import (
    CONFIDENCE,
    QUANTILE,
    Bools,
    Floats,
    check_outcome,
    check_risks,
    wilson_interval,
)
from monai_vfx.analysis.logistic import Logistic, fit_logistic
from monai_vfx.core.arrays import Json


def calibration_summary(y: npt.ArrayLike, risk: npt.ArrayLike, *, bins: int = 10) -> Json:
    """Return the entry ``calibration`` of ``evaluation.json`` for a score that is a risk.

    Slope b of logit p = a + b logit r, and intercept a of logit p = a + logit r (calibration in
    the large: 0 when as many fracture as predicted), both by maximum likelihood with Wald
    intervals. The ICI is the mean distance between the risk and a lowess curve of the outcome on
    it (two thirds of the patients, no robustness rounds). The Brier score is scaled as
    1 - Brier / (p (1 - p)) with p the observed share: 0 for predicting p for all, 1 for perfect.

    What cannot be computed is None, with the reason in ``notes``: slope and intercept with a risk
    of exactly 0 or 1 (its logit is infinite), the slope with one risk for all or with risks that
    separate the outcomes, the ICI where more than half of the patients share one risk.

    >>> summary = calibration_summary([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4], bins=2)
    >>> summary["brier"], summary["expected_observed"], summary["slope"]
    (0.125, 1.0, None)
    >>> summary["notes"]
    ['slope: the risks separate the outcomes, so it has no finite estimate']
    """
    outcome, named = check_outcome(y, risk=risk)
    risks = named["risk"]
    check_risks(risks)
    if bins < 2:
        raise ValueError(f"bins ({bins}) must be at least 2")
    notes: list[str] = []
    slope = intercept = None
    extreme = int(((risks == 0) | (risks == 1)).sum())
    if extreme:
        notes.append(f"slope and intercept: {extreme} patients have a risk of exactly 0 or 1")
    else:
        linear, ones = logit(risks), np.ones((risks.size, 1))
        intercept = coefficient_interval(fit_logistic(ones, outcome, offset=linear))
        obstacle = _slope_obstacle(outcome, risks)
        if obstacle:
            notes.append(f"slope: {obstacle}")
        else:
            model = fit_logistic(np.column_stack([ones, linear]), outcome)
            slope = coefficient_interval(model)
    ici = _integrated_index(outcome, risks)
    if ici is None:
        notes.append("ici: more than half of the patients have the same risk, no curve fits them")
    observed, brier = float(outcome.mean()), float(((risks - outcome) ** 2).mean())
    ratio = float(risks.sum() / outcome.sum())
    spread = QUANTILE * np.sqrt((1 - observed) / outcome.sum())
    return {
        "kind": "risk",
        "n": outcome.size,
        "events": int(outcome.sum()),
        "confidence": CONFIDENCE,
        "slope": slope and slope[0],
        "slope_ci": slope and slope[1],
        "intercept": intercept and intercept[0],
        "intercept_ci": intercept and intercept[1],
        "brier": brier,
        "scaled_brier": 1 - brier / (observed * (1 - observed)),
        "ici": ici,
        "mean_predicted": float(risks.mean()),
        "observed": observed,
        "expected_observed": ratio,
        "expected_observed_ci": [ratio * float(np.exp(side * spread)) for side in (-1, 1)],
        "bins": reliability_bins(outcome, risks, bins=bins),
        "notes": notes,
    }


def reliability_bins(y: npt.ArrayLike, risk: npt.ArrayLike, *, bins: int = 10) -> list[Json]:
    """Group patients by risk and set predicted beside observed shares, with Wilson intervals.

    >>> rows = reliability_bins([0, 0, 1, 1], [0.1, 0.1, 0.2, 0.6], bins=2)
    >>> [(round(row["predicted"], 2), row["observed"], row["n"]) for row in rows]
    [(0.1, 0.0, 2), (0.4, 1.0, 2)]
    """
    outcome, named = check_outcome(y, risk=risk)
    risks = named["risk"]
    edges = np.quantile(risks, np.arange(1, bins) / bins, method="inverted_cdf")
    group = np.searchsorted(np.unique(edges), risks, side="left")
    rows = []
    for number in np.unique(group):
        members = group == number
        share = wilson_interval(int(outcome[members].sum()), int(members.sum()))
        rows.append(
            {
                "predicted": float(risks[members].mean()),
                "observed": share.value,
                "ci": share.ci,
                "n": share.n,
                "events": share.events,
            }
        )
    return rows


def coefficient_interval(model: Logistic, *, robust: bool = False) -> tuple[float, list[float]]:
    """Return the last coefficient of a model and its Wald interval."""
    value = float(model.coefficients[-1])
    half = QUANTILE * float(model.errors(robust=robust)[-1])
    return value, [value - half, value + half]


def _slope_obstacle(outcome: Bools, risks: Floats) -> str | None:
    """Return why the slope has no finite maximum-likelihood estimate; None if it has one."""
    if np.ptp(risks) == 0:
        return "all patients have the same risk"
    events, others = risks[outcome], risks[~outcome]
    # Albert and Anderson 1984: with one variable the estimate is finite when the ranges overlap.
    if events.min() >= others.max() or events.max() <= others.min():
        return "the risks separate the outcomes, so it has no finite estimate"
    return None


def _integrated_index(outcome: Bools, risks: Floats) -> float | None:
    """Return the ICI, or None where a curve would rest on one risk."""
    from statsmodels.nonparametric.smoothers_lowess import lowess

    values, place, counts = np.unique(risks, return_inverse=True, return_counts=True)
    if counts.max() > risks.size / 2:
        return None  # lowess divides by zero when a window holds a single risk
    if values.size < 10:
        # Too few distinct risks for a curve: the share within each is the smooth itself.
        smooth = (np.bincount(place, outcome) / counts)[place]
    else:
        # Between risks closer than half a percent of their range, a straight line is enough.
        near = 0.005 * float(np.ptp(risks))
        smooth = lowess(
            outcome.astype(float), risks, frac=2 / 3, it=0, delta=near, return_sorted=False
        )
    return float(np.abs(np.clip(smooth, 0, 1) - risks).mean())
