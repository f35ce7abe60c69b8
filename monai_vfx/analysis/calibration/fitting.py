"""Logistic regressions whose patients' contributions are kept, for :mod:`.risk`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import statsmodels.api as sm
from scipy.special import expit
from statsmodels.tools.sm_exceptions import ModelWarning

from monai_vfx.analysis.calibration.terms import Floats
from monai_vfx.core.errors import SettingError


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression.

    Args:
        coefficients: (k,).
        probability: (n,) fitted.
        weight: (n,) of each patient in the information: w p (1 - p).
        information: (k, k).
    """

    coefficients: Floats
    probability: Floats
    weight: Floats
    information: Floats

    def influence(self, columns: Floats, outcome: Floats) -> Floats:
        """Return (n, k): how far each patient moves the coefficients (unweighted fits)."""
        moved = np.linalg.solve(
            self.information, (columns * (outcome - self.probability)[:, None]).T
        )
        return np.asarray(moved.T, np.float64)


def fit_logistic(
    columns: Floats,
    outcome: Floats,
    *,
    offset: Floats | None = None,
    weight: Floats | None = None,
) -> Logistic:
    """Fit by maximum likelihood (statsmodels).

    Args:
        columns: (n, k), the intercept among them, finite.
        outcome: (n,) 0 or 1.
        offset: (n,) known part of the linear predictor.
        weight: (n,) positive.

    Raises:
        SettingError: there is no solution, as when a variable separates the classes.
    """
    weight = np.ones(outcome.size) if weight is None else weight
    model = sm.GLM(
        outcome, columns, family=sm.families.Binomial(), offset=offset, var_weights=weight
    )
    with warnings.catch_warnings():
        # Separation and overflow on the way to infinity mean the same: no finite solution.
        warnings.simplefilter("error", ModelWarning)
        warnings.simplefilter("error", RuntimeWarning)
        try:
            result = model.fit(maxiter=100, tol=1e-10)
        except (ModelWarning, RuntimeWarning, np.linalg.LinAlgError) as error:
            raise SettingError(f"the logistic model has no solution: {error}") from error
    coefficients = np.asarray(result.params, np.float64)
    linear = columns @ coefficients + (0.0 if offset is None else offset)
    probability = np.asarray(expit(linear), np.float64)
    spread = weight * probability * (1 - probability)
    information = (columns * spread[:, None]).T @ columns
    if not result.converged or np.linalg.cond(information) > 1e12:
        raise SettingError("the logistic model has no unique solution: too few patients")
    return Logistic(coefficients, probability, spread, information)


LEAST_A_COLUMN = 10
"""Sampled, and unsampled, patients a column below which a class has one chance of sampling."""


def inclusion(
    columns: Floats, fracture: npt.ArrayLike, place: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return the chance with which each sampled patient was taken from the cohort.

    In each outcome class a logistic regression of having been sampled on the columns; 1 where
    the whole class was sampled. Where fewer than ten a column were sampled, or were not (a few
    cases that found no control, say), a regression would tell them apart by chance and may have
    no solution: the class then has one chance, its sampled share.

    Args:
        columns: (N, k) of the cohort, intercept first.
        fracture: (N,) 0 or 1.
        place: (n,) rows of the sampled.

    Returns:
        (n,) in (0, 1], in the order of ``place``; and (N, 2 k) the scores of the two regressions,
        zero where there is none.
    """
    outcome = np.asarray(fracture, np.float64)
    sampled = np.zeros(outcome.size)
    sampled[place] = 1.0
    chance = np.ones(outcome.size)
    scores = np.zeros((2, *columns.shape))
    for value in (0, 1):
        rows = outcome == value
        taken = int(sampled[rows].sum())
        if not 0 < taken < rows.sum():
            continue
        used = columns
        if min(taken, int(rows.sum()) - taken) < LEAST_A_COLUMN * columns.shape[1]:
            used = columns[:, :1]
        chance[rows] = fit_logistic(used[rows], sampled[rows]).probability
        width = used.shape[1]
        scores[value][rows, :width] = used[rows] * (sampled[rows] - chance[rows])[:, None]
    return chance[place], np.concatenate(list(scores), axis=1)
