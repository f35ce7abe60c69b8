"""Checks of published numbers: what a printed table implies, and what it cannot be.

These take what papers print (means, SDs, counts, shares, AUROCs), not patients. The page
``docs/paper-audit.md`` shows them at work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, ttest_ind_from_stats

from monai_vfx.analysis.evaluation.discrimination import hanley_mcneil_variance

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """A printed mean ± SD.

    Args:
        mean: as printed.
        sd: as printed, above half of ``sd_step``.
        n: patients, at least 2.
        mean_step: what the mean was rounded to, such as 0.1.
        sd_step: what the SD was rounded to.

    Raises:
        ValueError: on an SD or a number of patients that cannot be.
    """

    mean: float
    sd: float
    n: int
    mean_step: float = 0.1
    sd_step: float = 0.1

    def __post_init__(self) -> None:
        if not self.sd > self.sd_step / 2 or self.n < 2:
            raise ValueError(
                f"sd ({self.sd}) must be above half of what it was rounded to ({self.sd_step}) and "
                f"n ({self.n}) at least 2"
            )


def t_test_p(a: Summary, b: Summary, *, welch: bool = False) -> float:
    """Return the two-sided p of a t-test from two printed means.

    >>> f"{t_test_p(Summary(72.0, 7.6, 606), Summary(72.9, 8.2, 608)):.3f}"
    '0.048'
    """
    return _t_test_p(a.mean - b.mean, a.sd, b.sd, a.n, b.n, welch)


def t_test_p_range(a: Summary, b: Summary, *, welch: bool = False) -> tuple[float, float]:
    """Return the least and greatest p that the numbers before rounding allow.

    p falls with the distance of the means and rises with the SDs, so the corners decide. A printed
    p outside this range was not computed from these patients by this test.

    >>> low, high = t_test_p_range(Summary(72.0, 7.6, 606), Summary(72.9, 8.2, 608))
    >>> f"{low:.3f} {high:.3f}"
    '0.027 0.080'
    """
    slack = (a.mean_step + b.mean_step) / 2
    gap = abs(a.mean - b.mean)
    ends = [
        _t_test_p(
            max(gap + sign * slack, 0.0),
            a.sd - sign * a.sd_step / 2,
            b.sd - sign * b.sd_step / 2,
            a.n,
            b.n,
            welch,
        )
        for sign in (1, -1)
    ]
    return ends[0], ends[1]


def implied_accuracy(sensitivity: float, specificity: float, prevalence: float) -> float:
    """Return the accuracy that the three numbers imply; it lies between the first two.

    >>> f"{implied_accuracy(0.704, 0.855, 61 / 495):.3f}"
    '0.836'
    """
    _check_shares(sensitivity=sensitivity, specificity=specificity, prevalence=prevalence)
    return prevalence * sensitivity + (1 - prevalence) * specificity


def possible_count(share: float, n: int, *, step: float = 0.001) -> int | None:
    """Return the patients out of n that a printed share stands for; None if no number does.

    A share of whole patients can only take the values k/n. A mean over several runs can take any.

    Args:
        share: as printed, in [0, 1].
        n: patients, at least 1.
        step: what the share was rounded to.

    >>> possible_count(0.262, 61), possible_count(0.704, 61)
    (16, None)
    """
    _check_shares(share=share)
    if n < 1:
        raise ValueError(f"n ({n}) must be at least 1")
    count = round(share * n)
    # A tiny slack: a share that lies right between two printed ones may be rounded either way.
    return count if abs(count / n - share) <= step / 2 + 1e-12 else None


def concave_auroc_bounds(sensitivity: float, specificity: float) -> tuple[float, float]:
    """Return the AUROCs that a concave ROC curve through one point can have.

    The curve lies on or above the two chords from (0, 0) to the point and on to (1, 1), and on or
    below some line through the point with a slope m between those of the chords, and below 1. With
    x = 1 - specificity and y = sensitivity the area below such a line is
    1 - (1 - y + m x)² / (2 m), greatest at m = (1 - y) / x or at the nearest slope allowed. The ROC
    of a useful score is concave but for chance; without concavity the upper bound is 1 - x (1 - y).

    Args:
        sensitivity: above 1 - specificity.
        specificity: below 1 for an upper bound below 1.

    Raises:
        ValueError: on shares outside [0, 1] or a point on or below the diagonal.

    >>> low, high = concave_auroc_bounds(0.262, 0.887)
    >>> f"{low:.4f} {high:.3f}"
    '0.5745 0.784'
    """
    _check_shares(sensitivity=sensitivity, specificity=specificity)
    x, y = 1 - specificity, sensitivity
    if y <= x:
        raise ValueError(
            f"sensitivity ({y}) must be above 1 - specificity ({x}): no concave ROC lies below the "
            "diagonal"
        )
    low = (sensitivity + specificity) / 2
    if x == 0 or y == 1:
        return low, 1.0
    slope = float(np.clip((1 - y) / x, (1 - y) / (1 - x), y / x))
    return low, 1 - (1 - y + slope * x) ** 2 / (2 * slope)


def min_mcnemar_p(difference: float, n: int) -> float:
    """Return the smallest p that an exact McNemar test can give for a difference of two shares.

    The two shares are of the same n patients. The more patients change sides, the larger is p; so
    p is least when only ``difference`` x n do, all in one direction: 2^(1 - k).

    Args:
        difference: of the shares, in [-1, 1].
        n: patients, at least 1.

    Sensitivity 0.704 against 0.645 in 61 patients with a fracture:

    >>> round(min_mcnemar_p(0.704 - 0.645, 61), 3)
    0.125
    """
    _check_shares(difference=abs(difference))
    return float(min(1.0, 2.0 ** (1 - round(abs(difference) * n))))


def min_correlation(
    auroc_a: float, auroc_b: float, p: float, *, events: int, nonevents: int
) -> float:
    """Return how strongly two AUROC estimates must correlate for their difference to have this p.

    With Hanley and McNeil's standard errors s and r the correlation, the variance of the difference
    is s₁² + s₂² - 2 r s₁ s₂. Above 1 there is no such correlation.

    Args:
        auroc_a: first AUROC.
        auroc_b: second AUROC, of the same patients.
        p: two-sided, in (0, 1).
        events: patients with a fracture.
        nonevents: patients without.
    """
    if not 0 < p < 1:
        raise ValueError(f"p ({p}) must lie between 0 and 1")
    first = hanley_mcneil_variance(auroc_a, events=events, nonevents=nonevents)
    second = hanley_mcneil_variance(auroc_b, events=events, nonevents=nonevents)
    needed = ((auroc_a - auroc_b) / norm.isf(p / 2)) ** 2
    return float((first + second - needed) / (2 * np.sqrt(first * second)))


def best_auroc(
    continuous: Sequence[tuple[Summary, Summary]], binary: Sequence[tuple[float, float]]
) -> float:
    """Return the AUROC of the best possible score from covariates known by a table alone.

    The covariates are taken as independent within each group, the continuous ones as normal. The
    best score is then the likelihood ratio (Neyman and Pearson), and its AUROC follows from its
    distribution in both groups, computed on a grid without drawing.

    Args:
        continuous: (without, with a fracture) of each variable; at most two.
        binary: (share without, share with a fracture) of each variable, strictly between 0 and 1.

    >>> equal = [(Summary(0, 1, 9), Summary(1, 1, 9))]
    >>> f"{best_auroc(equal, []):.4f} {norm.cdf(1 / 2**0.5):.4f}"
    '0.7602 0.7602'
    """
    if len(continuous) > 2:
        raise ValueError(f"{len(continuous)} continuous variables were given; the grid takes two")
    others, events = np.ones(1), np.ones(1)
    for a, b in continuous:
        low = min(a.mean - 6 * a.sd, b.mean - 6 * b.sd)
        high = max(a.mean + 6 * a.sd, b.mean + 6 * b.sd)
        edges = np.linspace(low, high, 241)
        others = _crossed(others, np.diff(norm.cdf(edges, a.mean, a.sd)))
        events = _crossed(events, np.diff(norm.cdf(edges, b.mean, b.sd)))
    for without, having in binary:
        others = _crossed(others, np.array([1 - without, without]))
        events = _crossed(events, np.array([1 - having, having]))
    order = np.argsort(events / (events + others), kind="stable")
    below = np.cumsum(others[order]) - others[order] / 2
    return float(np.sum(events[order] * below) / (events.sum() * others.sum()))


def _crossed(masses: Floats, more: Floats) -> Floats:
    return np.asarray(np.outer(masses, more).ravel())


def _t_test_p(gap: float, sd_a: float, sd_b: float, n_a: int, n_b: int, welch: bool) -> float:
    result = ttest_ind_from_stats(gap, sd_a, n_a, 0.0, sd_b, n_b, equal_var=not welch)
    return float(result.pvalue)


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} ({share}) must lie in [0, 1]")
