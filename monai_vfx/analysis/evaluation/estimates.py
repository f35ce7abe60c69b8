"""What all estimates share: checked outcomes and scores, quantiles, intervals of shares.

Nothing here accepts missing values, weights, or repeated patients.

Sources: Clopper and Pearson 1934; Wilson 1927.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import binomtest, norm

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
CONFIDENCE = 0.95
"""Level of the intervals."""
TAIL = (1 - CONFIDENCE) / 2
QUANTILE = float(norm.isf(TAIL))
"""Two-sided normal quantile of the level."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and the patients that it rests on.

    Args:
        value: the estimate.
        low: lower bound of the interval.
        high: upper bound.
        n: patients (of an agreement: subjects rated).
        events: patients with a fracture, or of a share those counted.
        method: how value or interval was computed, where there is a choice.
    """

    value: float
    low: float
    high: float
    n: int
    events: int = 0
    method: str = ""

    @property
    def ci(self) -> list[float]:
        """Both bounds, as documents hold them."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Area(Estimate):
    """An area under the ROC curve, with the ``variance`` of its value."""

    variance: float = 0.0


def check_outcome(y: npt.ArrayLike, **scores: npt.ArrayLike) -> tuple[Bools, dict[str, Floats]]:
    """Check an outcome and the scores that belong to it.

    Args:
        y: (n,), 0 or False without, 1 or True with a fracture; both must occur.
        **scores: (n,) each, finite, higher meaning more likely to fracture.

    Returns:
        ``y`` as booleans (n,), and each score as float64 (n,) under its name.

    >>> check_outcome([0, 1, 2], score=[0.1, 0.2, 0.3])
    Traceback (most recent call last):
    ...
    ValueError: y holds 2.0 at position 2; only 0 (no fracture) and 1 (fracture) are accepted
    """
    outcome = finite_vector("y", y)
    wrong = np.flatnonzero((outcome != 0) & (outcome != 1))
    if wrong.size:
        raise ValueError(
            f"y holds {outcome[wrong[0]]} at position {wrong[0]}; "
            "only 0 (no fracture) and 1 (fracture) are accepted"
        )
    events = int(outcome.sum())
    if not 0 < events < outcome.size:
        raise ValueError(
            f"y holds {events} fractures among {outcome.size} patients; both outcomes must occur"
        )
    return outcome == 1, {name: same_length(name, s, "y", outcome) for name, s in scores.items()}


def finite_vector(name: str, values: npt.ArrayLike) -> Floats:
    """Return an argument as finite float64 (n,)."""
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers only: {error}") from error
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} has the shape {vector.shape}; one value a patient (n,) is needed")
    wrong = np.flatnonzero(~np.isfinite(vector))
    if wrong.size:
        raise ValueError(
            f"{name} holds {vector[wrong[0]]} at position {wrong[0]}; values must be finite"
        )
    return vector


def same_length(name: str, values: npt.ArrayLike, other: str, than: Floats) -> Floats:
    """Return an argument as finite float64 with one value for each of another argument."""
    vector = finite_vector(name, values)
    if vector.size != than.size:
        raise ValueError(
            f"{name} has {vector.size} values but {other} has {than.size}; one a patient is needed"
        )
    return vector


def check_risks(risks: Floats) -> None:
    """Refuse absolute risks outside [0, 1]."""
    if risks.min() < 0 or risks.max() > 1:
        raise ValueError(
            f"risk spans {risks.min()} to {risks.max()}; it must lie in [0, 1] (percent: / 100)"
        )


def check_calls(**calls: Floats) -> list[Bools]:
    """Return decisions as booleans; they must hold 0 and 1 only."""
    for name, called in calls.items():
        if not np.isin(called, (0.0, 1.0)).all():
            raise ValueError(f"{name} must hold 0 and 1 only")
    return [called == 1 for called in calls.values()]


def logit_interval(value: float, variance: float) -> tuple[float, float]:
    """Return bounds that are symmetric on the logit scale: expit(logit A ± q √V / (A (1 - A)))."""
    half = QUANTILE * np.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-half, half]))
    return float(low), float(high)


def extreme_interval(value: float, smaller: int) -> tuple[float, float]:
    """Return the bounds of an AUROC of exactly 0 or 1, whose logit is infinite.

    With k patients in the smaller class the open bound is Clopper and Pearson's for k of k
    successes: [(α/2)^(1/k), 1] for an AUROC of 1 and its mirror image for 0.
    """
    bound = float(TAIL ** (1 / smaller))
    return (bound, 1.0) if value == 1.0 else (0.0, 1.0 - bound)


def wilson_interval(successes: int, n: int) -> Estimate:
    """Return a share with its score interval (Wilson 1927), which holds at 0 and at n too.

    >>> share = wilson_interval(0, 10)
    >>> f"{share.value:.2f} {share.low:.3f} {share.high:.3f}"
    '0.00 0.000 0.278'
    """
    if n < 1 or int(n) != n:
        raise ValueError(f"n ({n}) must be a whole number of at least 1")
    if not 0 <= successes <= n or int(successes) != successes:
        raise ValueError(f"successes ({successes}) must be a whole number from 0 to n ({n})")
    found = binomtest(int(successes), int(n)).proportion_ci(CONFIDENCE, "wilson")
    return Estimate(successes / n, float(found.low), float(found.high), int(n), int(successes))
