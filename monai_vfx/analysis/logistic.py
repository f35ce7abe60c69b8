"""Logistic regression by maximum likelihood, with each patient's contribution kept."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from monai_vfx.core.errors import SettingError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression.

    Args:
        coefficients: (k,).
        probability: (n,) fitted.
        spread: (n,) of each patient in the information: w p (1 - p).
        scores: (n, k) of each patient, w (y - p) x; they sum to zero.
        information: (k, k).
    """

    coefficients: Floats
    probability: Floats
    spread: Floats
    scores: Floats
    information: Floats

    def influence(self, scores: Floats | None = None) -> Floats:
        """Return (n, k): how far each patient moves the coefficients, information⁻¹ · score.

        Args:
            scores: (n, k) to take in place of the model's own.
        """
        moved = np.linalg.solve(self.information, (self.scores if scores is None else scores).T)
        return np.asarray(moved.T, np.float64)

    def errors(self, *, robust: bool = False) -> Floats:
        """Return (k,) standard errors; robust ones are the sandwich estimator's (HC0)."""
        if robust:
            return np.asarray(np.sqrt((self.influence() ** 2).sum(axis=0)), np.float64)
        return np.asarray(np.sqrt(np.diag(np.linalg.inv(self.information))), np.float64)


def fit_logistic(
    columns: Floats,
    outcome: npt.ArrayLike,
    *,
    offset: Floats | None = None,
    weight: Floats | None = None,
) -> Logistic:
    """Fit a logistic regression (statsmodels).

    Args:
        columns: (n, k), the intercept among them, finite.
        outcome: (n,) 0 or 1.
        offset: (n,) known part of the linear predictor.
        weight: (n,) positive.

    Raises:
        SettingError: there is no solution, as when a variable separates the classes.
    """
    from statsmodels.api import GLM, families  # a second to import
    from statsmodels.tools.sm_exceptions import ModelWarning

    y = np.asarray(outcome, np.float64)
    weight = np.ones(y.size) if weight is None else weight
    model = GLM(y, columns, family=families.Binomial(), offset=offset, var_weights=weight)
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
    scores = columns * (weight * (y - probability))[:, None]
    return Logistic(coefficients, probability, spread, scores, information)
