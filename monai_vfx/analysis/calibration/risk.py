"""From a score learned on sampled controls to an absolute five-year risk, with its uncertainty.

A case-control sample holds about as many patients with as without a fracture, so its scores are no
five-year risks. With x a score, m the variables that controls were matched on (for instance age,
sex, BMI), π(m) the risk in the whole cohort and ρ(m) the share of cases in the sample, for any
sampling that looks at nothing but m and the outcome,

    logit P(fracture | x, m) = logit P(fracture | x, m, sampled) + logit π(m) - logit ρ(m).

With randomly drawn controls π and ρ are two numbers and the correction is a constant (King and Zeng
2001, Logistic regression in rare events data); after matching it depends on m, because matching
removes the association of m with the outcome from the sample. The correction enters as a known
offset of one logistic regression in the sample,

    logit P(sampled) = [b0 + b1 logit(x) + b2·m] - [logit π(m) - logit ρ(m)],

whose bracketed part is then the model of the risk. m stays in it as main effect, also for random
controls: without it the mean risk would be right for all but wrong in the young and the old.

Uncertainty: the estimates of π, ρ and b are smooth functions of patients' contributions (stacked
estimating equations; van der Vaart 1998, chapter 5). Their squares give one covariance of b that
holds the sampling of the cohort, of the controls and the fit. A case and its matched controls are
not taken as one unit: the variables that tie them stand in all three regressions (Abadie and
Spiess 2022), and in simulated hospitals intervals from whole pairs came out a tenth too narrow. It
is stored, so that the interval of the mean risk of any group needs no patient of the training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.calibration.model import Calibration, Kind, score_design
from monai_vfx.analysis.calibration.sampling import inclusion, places, usable_population
from monai_vfx.analysis.calibration.terms import Term, choose_terms, design
from monai_vfx.analysis.evaluation.estimates import Floats, check_outcome
from monai_vfx.analysis.logistic import fit_logistic
from monai_vfx.core.errors import SettingError

MATCHED = ("age", "sex", "bmi")
"""Variables known on the day of the CT that the study matched on."""
MIN_EVENTS = 10
"""Fewer patients in the smaller class than this and nothing is fitted."""
MIN_SLOPE_EVENTS = 50
"""A new site's slope is refitted when its smaller class has this many patients."""


def fit_calibration(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    kind: Kind,
    population: pd.DataFrame,
    selected: pd.DataFrame,
    variables: Sequence[str] = MATCHED,
) -> Calibration:
    """Fit the absolute risk on the scores of a case-control sample.

    Args:
        scores: (n,) in [0, 1] of the sampled patients, from models that did not see them
            (out-of-fold); NaN where there is none, left out and counted.
        labels: (n,) 0 or 1, fracture within five years.
        kind: ``random_controls`` (a constant offset), ``matched_controls`` (an offset that
            depends on ``variables``) or ``weighting`` (each class weighted by the inverse of its
            sampling fraction, which depends on ``variables``; less precise, for comparison).
        population: the whole eligible cohort, sampled patients included: ``case_id``, ``fracture``
            and the variables.
        selected: (n rows) of the sampled patients in the order of ``scores``: ``case_id`` and the
            variables.
        variables: those matched on that are known on the day of the CT. Without any
            (``random_controls`` only), the classical constant correction is left.

    Raises:
        SettingError: fewer than 10 of a class, a column missing, sampled patients who are not of
            the population, or a fit that has no solution.
        ValueError: labels or scores that cannot be.
    """
    if kind not in get_args(Kind) or kind == "refit":
        raise SettingError(f"kind {kind!r}; choose random_controls, matched_controls or weighting")
    if kind != "random_controls" and not variables:
        raise SettingError(f"variables: {kind} needs the variables that controls were matched on")
    score, outcome = _sample(scores, labels, selected)
    everyone = usable_population(population, variables)
    place = places(population, everyone, selected)
    terms = choose_terms(everyone, variables, int(min(outcome.sum(), (1 - outcome).sum())))
    columns = score_design(score, selected, terms)
    usable = np.isfinite(columns).all(axis=1) & (place >= 0)
    sample = _Sample(columns[usable], outcome[usable], place[usable])
    _check_size(sample.outcome)
    if (everyone["fracture"].to_numpy()[sample.place] != sample.outcome).any():
        raise SettingError("labels and the population table disagree about who had a fracture")
    fitted = _fit_weighted if kind == "weighting" else _fit_offset
    offset_terms = () if kind == "random_controls" else terms
    fit = fitted(sample, everyone, offset_terms)
    return Calibration(
        kind=kind,
        terms=terms,
        coefficients=tuple(fit.coefficients.tolist()),
        covariance=tuple(tuple(row) for row in fit.covariance.tolist()),
        n=int(usable.sum()),
        events=int(sample.outcome.sum()),
        missing=int((~usable).sum()),
        population_n=len(everyone),
        population_events=int(everyone["fracture"].sum()),
        offset=fit.offset,
    )


def refit(
    calibration: Calibration | None,
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    frame: pd.DataFrame | None = None,
) -> Calibration:
    """Adapt a calibration (or, without one, a bare score) to a new site.

    With lp = logit of the present risk (or of the score), fits logit P = a + b lp on the site's
    unselected patients. With at least 50 patients in the smaller class both a and b are fitted,
    with 10 to 49 only a (b stays 1): a slope from fewer is less certain than the old one. The
    covariance is that of a and b alone: the old coefficients are taken as they are.

    Args:
        calibration: to be adapted; None starts from the score itself.
        scores: (n,) in [0, 1]; NaN where there is none, left out and counted.
        labels: (n,) 0 or 1; of patients as they come, not of sampled controls.
        frame: with the calibration's variables.

    Raises:
        SettingError: fewer than 10 patients of a class, or a column is missing.
    """
    score, outcome = _sample(scores, labels, frame)
    terms = calibration.terms if calibration else ()
    old = np.array(calibration.coefficients) if calibration else np.array([0.0, 1.0])
    if calibration is not None and terms and frame is None:
        calibration.risk(score, frame)  # says which columns are needed
    columns = score_design(score, frame, terms)
    usable = np.isfinite(columns).all(axis=1)
    outcome, linear = outcome[usable], columns[usable] @ old
    smaller = _check_size(outcome)
    both = smaller >= MIN_SLOPE_EVENTS
    ones = np.ones((outcome.size, 1))
    model = (
        fit_logistic(np.column_stack([ones, linear]), outcome)
        if both
        else fit_logistic(ones, outcome, offset=linear)
    )
    first = np.zeros_like(old)
    first[0] = 1.0
    change = np.column_stack([first, old]) if both else first[:, None]
    slope = float(model.coefficients[1]) if both else 1.0
    coefficients = model.coefficients[0] * first + slope * old
    covariance = change @ np.linalg.inv(model.information) @ change.T
    return Calibration(
        kind="refit",
        terms=terms,
        coefficients=tuple(coefficients.tolist()),
        covariance=tuple(tuple(row) for row in covariance.tolist()),
        n=int(usable.sum()),
        events=int(outcome.sum()),
        missing=int((~usable).sum()),
        refitted="intercept and slope" if both else "intercept",
    )


@dataclass(frozen=True)
class _Sample:
    """The sampled patients that can be used: design, outcome, row in the cohort."""

    columns: Floats
    outcome: Floats
    place: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Fit:
    """Coefficients, their covariance, and the offset's smallest, mean and largest value."""

    coefficients: Floats
    covariance: Floats
    offset: tuple[float, float, float] | None = None


def _fit_offset(sample: _Sample, everyone: pd.DataFrame, terms: tuple[Term, ...]) -> _Fit:
    """Fit with the offset logit π(m) - logit ρ(m)."""
    whole = design(everyone, terms)
    here = whole[sample.place]
    cohort = fit_logistic(whole, everyone["fracture"].to_numpy(np.float64))
    share = fit_logistic(here, sample.outcome)
    offset = here @ (cohort.coefficients - share.coefficients)
    model = fit_logistic(sample.columns, sample.outcome, offset=-offset)
    # b moves with the offset's coefficients by information⁻¹ · cross.
    cross = (sample.columns * model.spread[:, None]).T @ here
    contribution = cohort.influence() @ cross.T
    contribution[sample.place] -= share.influence() @ cross.T
    contribution[sample.place] += model.scores
    span = (float(offset.min()), float(offset.mean()), float(offset.max()))
    return _Fit(model.coefficients, _covariance(model.influence(contribution)), span)


def _fit_weighted(sample: _Sample, everyone: pd.DataFrame, terms: tuple[Term, ...]) -> _Fit:
    """Fit with each patient weighted by the inverse of its estimated chance to be sampled.

    That the weights are estimated makes the fit more precise, by what the contributions share with
    the scores of the sampling model (Pierce 1982).
    """
    chance, scores = inclusion(design(everyone, terms), everyone["fracture"], sample.place)
    model = fit_logistic(sample.columns, sample.outcome, weight=1.0 / chance)
    contribution = np.zeros((len(everyone), sample.columns.shape[1]))
    contribution[sample.place] = model.scores
    contribution -= scores @ np.linalg.lstsq(scores, contribution, rcond=None)[0]
    return _Fit(model.coefficients, _covariance(model.influence(contribution)))


def _covariance(influence: Floats) -> Floats:
    """Return Σ (influence)(influence)ᵀ over patients, (k, k), exactly symmetric."""
    covariance = np.asarray(influence.T @ influence, np.float64)
    return (covariance + covariance.T) / 2


def _sample(
    scores: npt.ArrayLike, labels: npt.ArrayLike, frame: pd.DataFrame | None
) -> tuple[Floats, Floats]:
    score = np.asarray(scores, np.float64).reshape(-1)
    outcome, _ = check_outcome(labels)
    if score.size != outcome.size:
        raise ValueError(f"scores has {score.size} values but labels has {outcome.size}")
    if frame is not None and len(frame) != score.size:
        raise ValueError(f"the table has {len(frame)} rows but there are {score.size} scores")
    return score, outcome.astype(np.float64)


def _check_size(outcome: Floats) -> int:
    """Return the size of the smaller class; refuse one too small to fit anything."""
    smaller = int(min(outcome.sum(), (1 - outcome).sum()))
    if smaller < MIN_EVENTS:
        raise SettingError(
            f"{int(outcome.sum())} fractures of {outcome.size} patients; at least "
            f"{MIN_EVENTS} patients with and without are needed"
        )
    return smaller
