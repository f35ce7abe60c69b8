"""How well two readings agree: grades and measurements.

Sources: Cohen 1968 and Fleiss, Cohen and Everitt 1969 (weighted kappa and its standard error);
Shrout and Fleiss 1979 and McGraw and Wong 1996 (intraclass correlation); Bland and Altman 1986
and 1999 (limits of agreement).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from monai_vfx.analysis.evaluation.estimates import (
    QUANTILE,
    TAIL,
    Estimate,
    Floats,
    finite_vector,
    same_length,
)


@dataclass(frozen=True)
class LimitsOfAgreement:
    """Bland and Altman's description of paired measurements, in their unit.

    Args:
        bias: mean difference, first minus second.
        bias_ci: interval of ``bias``.
        sd: of the differences.
        low: ``bias`` - q SD; about 95 % of differences lie above.
        low_ci: interval of ``low``.
        high: ``bias`` + q SD.
        high_ci: interval of ``high``.
        n: pairs.
    """

    bias: float
    bias_ci: tuple[float, float]
    sd: float
    low: float
    low_ci: tuple[float, float]
    high: float
    high_ci: tuple[float, float]
    n: int


def weighted_kappa(
    first: Sequence[Any] | npt.NDArray[Any],
    second: Sequence[Any] | npt.NDArray[Any],
    *,
    categories: Sequence[Any],
) -> Estimate:
    """Return Cohen's quadratic weighted kappa of two readers' ordered grades, with its interval.

    The interval is kappa ± q SE, cut at -1 and 1. Readers who agree on every subject have a SE of
    zero; their lower bound is then the kappa of the least agreement that n of n agreeing allows
    (Clopper and Pearson's bound), every disagreement being one grade.

    Args:
        first: (n,) grades of one reader.
        second: (n,) grades of the other, same subjects in the same order.
        categories: all grades in order, also those nobody gave; the weights depend on it.

    >>> kappa = weighted_kappa([0, 1, 2, 2, 1], [0, 1, 1, 2, 1], categories=[0, 1, 2, 3])
    >>> round(kappa.value, 3), kappa.n
    (0.8, 5)
    """
    from statsmodels.stats.inter_rater import cohens_kappa  # a second to import

    table = _grade_table(first, second, list(categories))
    if (table.sum(axis=0) > 0).sum() == 1 and np.array_equal(table.sum(axis=0), table.sum(axis=1)):
        raise ValueError("both readers gave every subject the same grade; kappa has no value")
    result = cohens_kappa(table, wt="quadratic")
    value, n = float(result.kappa), int(table.sum())
    variance = max(float(result.var_kappa), 0.0)
    half = QUANTILE * np.sqrt(variance)
    low, high = value - half, value + half
    if np.trace(table) == n:
        value, high = 1.0, 1.0
        low = _perfect_agreement_bound(table)
    return Estimate(value, max(float(low), -1.0), min(float(high), 1.0), n)


def intraclass_correlation(ratings: npt.ArrayLike) -> Estimate:
    """Return the intraclass correlation ICC(2,1) of one reader's measurement, with its F interval.

    Readers are a sample of all readers, and absolute agreement counts. From the two-way analysis
    of variance with the mean squares of subjects (B), readers (J) and error (E), n subjects and k
    readers: (B - E) / (B + (k - 1) E + k (J - E) / n).

    Args:
        ratings: (n, k), n ≥ 2 subjects by k ≥ 2 readers, complete.

    Shrout and Fleiss's own example:

    >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9],
    ...            [6, 2, 4, 7]]
    >>> round(intraclass_correlation(ratings).value, 2)
    0.29
    """
    matrix = np.asarray(ratings, np.float64)
    if matrix.ndim != 2 or min(matrix.shape) < 2:
        raise ValueError(f"ratings has the shape {matrix.shape}; (n ≥ 2, k ≥ 2) is needed")
    if not np.isfinite(matrix).all():
        raise ValueError("ratings has missing values; leave out subjects not rated by every reader")
    if (matrix == matrix[0]).all():
        raise ValueError("the subjects do not differ; a correlation has no value")
    n, k = matrix.shape
    subjects = float(k * matrix.mean(axis=1).var(ddof=1))
    readers = float(n * matrix.mean(axis=0).var(ddof=1))
    residual = matrix - matrix.mean(axis=1, keepdims=True) - matrix.mean(axis=0) + matrix.mean()
    error = float((residual**2).sum() / ((n - 1) * (k - 1)))
    value = (subjects - error) / (subjects + (k - 1) * error + k * (readers - error) / n)
    low, high = _correlation_bounds(value, (subjects, readers, error), n, k)
    return Estimate(value, low, high, n)


def limits_of_agreement(first: npt.ArrayLike, second: npt.ArrayLike) -> LimitsOfAgreement:
    """Return the bias between two measurements of the same subjects and its limits.

    The limits are bias ± q SD of the differences; their standard error is
    SD √(1/n + q² / (2 (n - 1))), and both intervals use Student's t with n - 1 degrees.

    Args:
        first: (n,), in the measurements' unit.
        second: (n,), same subjects in the same order.

    >>> limits = limits_of_agreement([10, 12, 14], [11, 12, 13])
    >>> limits.bias, round(limits.low, 2), round(limits.high, 2)
    (0.0, -1.96, 1.96)
    """
    one = finite_vector("first", first)
    difference, n = one - same_length("second", second, "first", one), one.size
    if n < 3:
        raise ValueError(f"first and second have {n} values; at least 3 pairs are needed")
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    student = float(t_distribution.isf(TAIL, n - 1))

    def around(centre: float, error: float) -> tuple[float, float]:
        return centre - student * error, centre + student * error

    spread = sd * float(np.sqrt(1 / n + QUANTILE**2 / (2 * (n - 1))))
    low, high = bias - QUANTILE * sd, bias + QUANTILE * sd
    return LimitsOfAgreement(
        bias=bias,
        bias_ci=around(bias, sd / float(np.sqrt(n))),
        sd=sd,
        low=low,
        low_ci=around(low, spread),
        high=high,
        high_ci=around(high, spread),
        n=n,
    )


def _grade_table(
    first: Sequence[Any] | npt.NDArray[Any],
    second: Sequence[Any] | npt.NDArray[Any],
    categories: list[Any],
) -> Floats:
    """Count pairs of grades, (categories, categories)."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"first has {len(first)} grades and second {len(second)}; one pair each")
    if len(categories) < 2 or len(set(categories)) < len(categories):
        raise ValueError(f"categories ({categories}) must be two or more, each once")
    place = {grade: number for number, grade in enumerate(categories)}
    table = np.zeros((len(categories), len(categories)))
    for pair in zip(first, second, strict=True):
        unknown = [grade for grade in pair if grade not in place]
        if unknown:
            raise ValueError(f"grade {unknown[0]!r} is not among the categories {categories}")
        table[place[pair[0]], place[pair[1]]] += 1
    return table


def _perfect_agreement_bound(table: Floats) -> float:
    """Return the lower bound of kappa where nobody disagreed."""
    n, grades = table.sum(), np.arange(len(table))
    by_chance = table.sum(axis=1) @ (grades[:, None] - grades) ** 2 @ table.sum(axis=0) / n**2
    return float(1 - (1 - TAIL ** (1 / n)) / by_chance)


def _correlation_bounds(
    value: float, squares: tuple[float, float, float], n: int, k: int
) -> tuple[float, float]:
    """Return the interval of ICC(2,1), with Satterthwaite's degrees of freedom."""
    subjects, readers, error = squares
    if 1 - value < 1e-12:
        return 1.0, 1.0
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    mixed = a * readers + b * error
    parts = (a * readers) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    degrees = mixed**2 / parts
    other = k * readers + (k * n - k - n) * error
    below = f_distribution.isf(TAIL, n - 1, degrees)
    above = f_distribution.isf(TAIL, degrees, n - 1)
    low = n * (subjects - below * error) / (below * other + n * subjects)
    high = n * (above * subjects - error) / (other + n * above * subjects)
    return float(low), float(high)
