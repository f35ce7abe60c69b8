"""A fitted model of the absolute five-year risk: risks, their intervals, and its document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import t as student

from monai_vfx.analysis.calibration.terms import Term, design
from monai_vfx.analysis.evaluation.estimates import (
    QUANTILE,
    TAIL,
    Bools,
    Estimate,
    Floats,
    logit_interval,
)
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import read_json
from monai_vfx.core.schemas import violations

Kind = Literal["random_controls", "matched_controls", "weighting", "refit"]
SCORE_LIMIT = 1e-6
"""Scores and risks nearer to 0 or 1 are moved here, so that their logit is finite."""


@dataclass(frozen=True)
class Calibration:
    """A model of the five-year risk on a score (``data_schemas/calibration.schema.json``).

    Args:
        kind: how it was fitted.
        terms: variables besides the score.
        coefficients: intercept, slope of logit(score), then the terms' columns.
        covariance: of the coefficients, rows.
        n: patients that the coefficients rest on; ``events`` with a fracture among them.
        missing: rows left out for a missing score or variable.
        population_n: patients of the whole cohort, ``population_events`` with a fracture; None
            for a refit, which needs no cohort.
        offset: smallest, mean and largest of logit π(m) - logit ρ(m) in the sample; None where
            none was used.
        refitted: of a refit: ``intercept`` or ``intercept and slope``.
    """

    kind: Kind
    terms: tuple[Term, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    n: int
    events: int
    missing: int = 0
    population_n: int | None = None
    population_events: int | None = None
    offset: tuple[float, float, float] | None = None
    refitted: str | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        """Columns that :meth:`risk` needs beside the score."""
        return tuple(term.name for term in self.terms)

    def risk(self, score: npt.ArrayLike, frame: pd.DataFrame | None = None) -> Floats:
        """Return the five-year risk of each patient.

        Args:
            score: (n,) in [0, 1]; NaN where there is none.
            frame: (n rows) with the columns of :attr:`variables`; None where there are none.

        Returns:
            (n,) in (0, 1); NaN where the score or a variable is missing.
        """
        return np.asarray(expit(self.design(score, frame) @ self.coefficients), np.float64)

    def risk_interval(self, score: npt.ArrayLike, frame: pd.DataFrame | None = None) -> Floats:
        """Return (n, 2): the interval of each patient's risk that the calibration's data leave.

        It covers the uncertainty of the coefficients; not the spread between models
        (:func:`ensemble_interval`), and not whether this patient will fracture.
        """
        columns = self.design(score, frame)
        spread = np.sqrt(np.einsum("ij,jk,ik->i", columns, np.array(self.covariance), columns))
        middle = columns @ self.coefficients
        half = QUANTILE * spread
        return np.asarray(expit(np.column_stack([middle - half, middle + half])), np.float64)

    def usable(self, score: npt.ArrayLike, frame: pd.DataFrame | None = None) -> Bools:
        """Return (n,): who has a score and all variables."""
        return np.asarray(np.isfinite(self.design(score, frame)).all(axis=1), np.bool_)

    def to_json(self) -> Json:
        """Return the document, checked against its schema."""
        document: Json = {
            "kind": self.kind,
            "score_scale": "logit",
            "terms": [term.to_json() for term in self.terms],
            "coefficients": list(self.coefficients),
            "covariance": [list(row) for row in self.covariance],
            "n": self.n,
            "events": self.events,
            "missing": self.missing,
            "population_n": self.population_n,
            "population_events": self.population_events,
            "offset": None if self.offset is None else list(self.offset),
            "refitted": self.refitted,
        }
        _check_document(document)
        return document

    @classmethod
    def from_json(cls, document: Json) -> Calibration:
        """Return the calibration of a document."""
        _check_document(document)
        offset = document["offset"]
        return cls(
            kind=document["kind"],
            terms=tuple(Term.from_json(entry) for entry in document["terms"]),
            coefficients=tuple(document["coefficients"]),
            covariance=tuple(tuple(row) for row in document["covariance"]),
            n=document["n"],
            events=document["events"],
            missing=document["missing"],
            population_n=document["population_n"],
            population_events=document["population_events"],
            offset=None if offset is None else (offset[0], offset[1], offset[2]),
            refitted=document["refitted"],
        )

    def design(self, score: npt.ArrayLike, frame: pd.DataFrame | None) -> Floats:
        """Return (n, k): the columns that the coefficients multiply; see :func:`score_design`."""
        if frame is None and self.terms:
            raise SettingError(
                f"this calibration needs the columns {', '.join(self.variables)} beside the score"
            )
        return score_design(score, frame, self.terms)


def read_calibration(path: str | Path) -> Calibration:
    """Return the calibration of a ``calibration.json``."""
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise SettingError(f"the calibration cannot be read: {error}") from error
    return Calibration.from_json(document)


def mean_risk_interval(
    calibration: Calibration,
    scores: npt.ArrayLike,
    frame: pd.DataFrame | None = None,
    *,
    weights: npt.ArrayLike | None = None,
) -> Estimate:
    """Return a group's mean five-year risk with an interval.

    The interval is for the true mean five-year risk of patients with these scores and variables,
    symmetric on the logit scale, by the delta method from the calibration's covariance. It is
    not for the share that will be observed in a small group, which chance moves further.

    Args:
        calibration: fitted.
        scores: (n,) of the group; patients without score or variable are left out of ``n``.
        frame: their variables.
        weights: (n,) how many patients of the population each stands for; the group is then
            the population, and its sampling is added to the interval.
    """
    columns = calibration.design(scores, frame)
    usable = np.isfinite(columns).all(axis=1)
    if not usable.any():
        raise ValueError("scores: no patient of the group has a score and all variables")
    columns = columns[usable]
    share = np.ones(len(columns)) if weights is None else np.asarray(weights, np.float64)[usable]
    share = share / share.sum()
    risk = expit(columns @ calibration.coefficients)
    mean = float(share @ risk)
    gradient = (share * risk * (1 - risk)) @ columns
    variance = float(gradient @ np.array(calibration.covariance) @ gradient)
    if weights is not None:
        variance += float(np.sum((share * (risk - mean)) ** 2))
    low, high = logit_interval(mean, variance)
    return Estimate(mean, low, high, int(usable.sum()))


def score_design(score: npt.ArrayLike, frame: pd.DataFrame | None, terms: Sequence[Term]) -> Floats:
    """Return (n, 2 + widths): ones, logit(score), the terms' columns; NaN where missing."""
    values = np.asarray(score, np.float64).reshape(-1)
    wrong = values[(values < 0) | (values > 1)]
    if wrong.size:
        raise ValueError(
            f"scores hold {wrong[0]}; they must lie in [0, 1] (percent: divide by 100)"
        )
    if frame is not None and len(frame) != values.size:
        raise ValueError(f"frame has {len(frame)} rows but there are {values.size} scores")
    scale = logit(np.clip(values, SCORE_LIMIT, 1 - SCORE_LIMIT))
    rest = design(frame, terms)[:, 1:] if frame is not None else np.empty((values.size, 0))
    return np.column_stack([np.ones(values.size), scale, rest])


def ensemble_interval(member_risks: npt.ArrayLike) -> Floats:
    """Return the interval in which one more model of this kind would place each risk.

    Student's prediction interval of the members' logits, mean ± t √(1 + 1/m) SD, widened where
    needed to hold the mean risk. It describes models, not outcomes: the folds of a
    cross-validation share most of their patients, so it is narrower than what training on other
    patients would give, and it does not tell whether this patient will fracture.

    Args:
        member_risks: (m, n), risks of n patients by m >= 2 models, in [0, 1].

    Returns:
        (n, 2) lower and upper bound, in (0, 1).

    >>> ensemble_interval([[0.1, 0.2], [0.1, 0.3], [0.1, 0.4]]).round(2).tolist()
    [[0.1, 0.1], [0.03, 0.83]]
    """
    risks = np.asarray(member_risks, np.float64)
    if risks.ndim != 2 or risks.shape[0] < 2:
        raise ValueError(f"member_risks has the shape {risks.shape}; (models >= 2, patients)")
    if not ((risks >= 0) & (risks <= 1)).all():
        raise ValueError("member_risks must lie in [0, 1]")
    members = len(risks)
    scale = logit(np.clip(risks, SCORE_LIMIT, 1 - SCORE_LIMIT))
    quantile = student.isf(TAIL, members - 1)
    half = quantile * np.sqrt(1 + 1 / members) * scale.std(axis=0, ddof=1)
    bounds = expit(scale.mean(axis=0) + np.stack([-half, half]))
    mean = risks.mean(axis=0)
    return np.column_stack([np.minimum(bounds[0], mean), np.maximum(bounds[1], mean)])


def _check_document(document: Json) -> None:
    broken = violations(document, "calibration")
    if broken:
        raise SettingError("calibration breaks its schema: " + "; ".join(broken[:5]))
