"""Discrimination beyond what covariates explain: the covariate-adjusted AUROC.

A score that only tells old from young separates patients with and without a fracture, yet adds
nothing for a person whose age is known. The adjusted AUROC is the probability that a patient
with a fracture scores higher than one without **of the same covariates**, averaged over the
patients with a fracture (Janes and Pepe 2009: the mean of the cases' placement values, each among
the controls with its covariates). After matching it is the AUROC that has a meaning beyond the
sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from monai_vfx.analysis.evaluation.bootstrap import Counts, percentile_interval, sample_rows
from monai_vfx.analysis.evaluation.estimates import (
    Bools,
    Estimate,
    Floats,
    check_outcome,
)

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[npt.NDArray[np.int64]], float]
"""Row numbers of the patients that count → the adjusted AUROC."""
_SCALE_STEPS = 6
"""Fisher scoring steps for the scale; after four the fourth digit no longer changes."""
_DIGITS = 9
"""Decimals of standardised scores: equal patients must tie in spite of rounding."""


def adjusted_auroc(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    covariates: pd.DataFrame,
    counts: Counts,
) -> Estimate:
    """Return the AUROC of a score adjusted for covariates, with its bootstrap interval.

    Where every covariate is text, each case is compared with the controls of the same entries
    (method ``stratified``); cases whose stratum holds no control are left out of ``n`` and
    ``events``. Otherwise (``location_scale``) a linear model of the controls' scores is used: mean
    β'z, standard deviation exp(γ'z), z the covariates (text as indicators), fitted by least squares
    and by a gamma regression of the squared residuals. A case's placement is the share of controls
    whose standardised residual lies below its own, ties half. The model takes the score's normal
    scores (van der Waerden), so that the result does not depend on the score's scale.

    Args:
        y: (n,), 0 or 1, both present.
        score: (n,), finite.
        covariates: (n, k), numbers or text, nothing missing.
        counts: of :func:`monai_vfx.analysis.evaluation.bootstrap.draw_counts` for these patients.
    """
    outcome, scores = check_outcome(y, score=score)
    if covariates.shape[0] != outcome.size or covariates.isna().to_numpy().any():
        raise ValueError("covariates must hold one row a patient and nothing missing")
    ranks = rankdata(scores["score"])
    text = [str(name) for name in covariates if covariates[name].dtype.kind not in "biuf"]
    if len(text) == covariates.shape[1]:
        strata = np.asarray(covariates.groupby(text, sort=True).ngroup(), dtype=np.int64)
        measure, left_out = _by_strata(outcome, ranks, strata)
        method = "stratified"
    else:
        values = norm.ppf((ranks - 0.5) / ranks.size)
        measure, left_out = _by_model(outcome, values, _design(covariates, text)), 0
        method = "location_scale"
    found = np.array([measure(rows) for rows in sample_rows(counts)])
    low, high = percentile_interval(found[np.isfinite(found)])
    n, events = outcome.size - left_out, int(outcome.sum()) - left_out
    return Estimate(measure(np.arange(outcome.size)), low, high, n, events, method)


def _design(covariates: pd.DataFrame, text: list[str]) -> Floats:
    """Return (n, 1 + p): a constant, standardised numbers, an indicator for each entry but one."""
    columns = [np.ones(covariates.shape[0])]
    for name in covariates:
        if name in text:
            entries, code = np.unique(covariates[name].astype(str), return_inverse=True)
            columns += [(code == number).astype(np.float64) for number in range(1, entries.size)]
        else:
            numbers = covariates[name].to_numpy(np.float64)
            spread = numbers.std()
            columns.append((numbers - numbers.mean()) / (spread if spread > 0 else 1.0))
    return np.stack(columns, axis=1)


def _placement(events: Floats, others: Floats) -> Floats:
    """Return for each event the share of the others below it, ties half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, events, "left") + np.searchsorted(ordered, events, "right")
    placement: Floats = below / (2 * ordered.size)
    return placement


def _by_model(outcome: Bools, values: Floats, design: Floats) -> Measure:
    """Return the measure under the location-scale model, as a function of rows."""

    def measure(rows: npt.NDArray[np.int64]) -> float:
        y, v, z = outcome[rows], values[rows], design[rows]
        controls = z[~y]
        # A sample may lack a category: the pseudo-inverse then leaves its indicator out.
        gram = np.linalg.pinv(controls.T @ controls, rcond=1e-10, hermitian=True)
        inverse: Floats = np.asarray(gram @ controls.T, dtype=np.float64)
        residuals: Floats = v - z @ (inverse @ v[~y])
        scale = _log_variance(residuals[~y] ** 2, controls, inverse)
        if scale is not None:
            # A bootstrap sample with few events may fit a scale beyond the range of numbers.
            residuals = residuals / np.exp(np.clip(z @ scale / 2, -50, 50))
        residuals = np.round(residuals, _DIGITS)
        return float(_placement(residuals[y], residuals[~y]).mean())

    return measure


def _log_variance(squares: Floats, design: Floats, inverse: Floats) -> Floats | None:
    """Return γ of log variance = γ'z by gamma regression; None where nothing varies.

    With a log link the gamma family's working weights are all one, so each step of Fisher scoring
    is a least-squares fit with the same pseudo-inverse.
    """
    mean = float(squares.mean())
    if mean < 10.0**-_DIGITS:
        return None
    start = float(np.log(mean))
    scale: Floats = inverse @ np.full(squares.size, start)
    for _ in range(_SCALE_STEPS):
        # A first step that overshoots must not run away: e^6 is far beyond any real spread.
        fitted = np.exp(np.clip(design @ scale, start - 6, start + 6))
        scale = scale + inverse @ (squares / fitted - 1)
    return scale


def _by_strata(
    outcome: Bools, values: Floats, strata: npt.NDArray[np.int64]
) -> tuple[Measure, int]:
    """Return the measure within strata, and how many events have no control in theirs."""

    def measure(rows: npt.NDArray[np.int64]) -> float:
        placements = [
            _placement(values[rows[inside & outcome[rows]]], values[rows[inside & ~outcome[rows]]])
            for inside in (strata[rows] == number for number in np.unique(strata[outcome]))
            if (inside & ~outcome[rows]).any()
        ]
        joined = np.concatenate([np.empty(0), *placements])
        return float(joined.mean()) if joined.size else float("nan")

    matched = np.isin(strata[outcome], strata[~outcome])
    if not matched.any():
        raise ValueError("no patient with a fracture shares a stratum with one without")
    return measure, int((~matched).sum())
