"""How well two readings agree: grades, measurements, and where they differ.

Sources: Cohen 1968 and Fleiss, Cohen and Everitt 1969 (weighted kappa and its standard error);
Shrout and Fleiss 1979 and McGraw and Wong 1996 (intraclass correlation); Bland and Altman 1986
and 1999 (limits of agreement).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from monai_vfx.analysis.evaluation.discrimination import _finite_vector, _quantile

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """A coefficient of agreement with its interval.

    Args:
        value: at most 1; 0 is chance (kappa) or no agreement (ICC).
        ci_low: lower bound.
        ci_high: upper bound, at most 1.
        n: subjects (patients or vertebrae) rated.
        confidence: level of the interval.
    """

    value: float
    ci_low: float
    ci_high: float
    n: int
    confidence: float = 0.95


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
        confidence: level of limits and intervals.
    """

    bias: float
    bias_ci: tuple[float, float]
    sd: float
    low: float
    low_ci: tuple[float, float]
    high: float
    high_ci: tuple[float, float]
    n: int
    confidence: float = 0.95


def weighted_kappa(
    first: Sequence[Any] | npt.NDArray[Any],
    second: Sequence[Any] | npt.NDArray[Any],
    *,
    categories: Sequence[Any],
    weights: Literal["quadratic", "linear"] = "quadratic",
    confidence: float = 0.95,
) -> Agreement:
    """Return Cohen's weighted kappa of two readers' ordered grades, with its asymptotic interval.

    The interval is kappa ± q SE, cut at -1 and 1. Readers who agree on every subject have a SE of
    zero; their lower bound is then the kappa of the least agreement that n of n agreeing allows
    (Clopper and Pearson's bound), every disagreement being one grade.

    Args:
        first: (n,) grades of one reader.
        second: (n,) grades of the other, same subjects in the same order.
        categories: all grades in order, also those nobody gave; the weights depend on it.
        weights: disagreement grows with the distance in grades, squared or as it is.
        confidence: level of the interval, in (0, 1).

    Raises:
        ValueError: no or unequal numbers of grades, a grade not in ``categories``, fewer than two
            categories, or both readers giving everyone the same grade (kappa has no value).

    >>> kappa = weighted_kappa([0, 1, 2, 2, 1], [0, 1, 1, 2, 1], categories=[0, 1, 2, 3])
    >>> round(kappa.value, 3), kappa.n
    (0.8, 5)
    """
    from statsmodels.stats.inter_rater import cohens_kappa  # a second to import

    quantile = _quantile(confidence)
    table = _grade_table(first, second, list(categories))
    if (table.sum(axis=0) > 0).sum() == 1 and np.array_equal(table.sum(axis=0), table.sum(axis=1)):
        raise ValueError("both readers gave every subject the same grade; kappa has no value")
    result = cohens_kappa(table, wt=weights)
    value, n = float(result.kappa), int(table.sum())
    variance = max(float(result.var_kappa), 0.0)
    low, high = value - quantile * np.sqrt(variance), value + quantile * np.sqrt(variance)
    if np.trace(table) == n:
        value, high = 1.0, 1.0
        low = _perfect_agreement_bound(table, weights, (1 - confidence) / 2)
    return Agreement(value, max(float(low), -1.0), min(float(high), 1.0), n, confidence)


def intraclass_correlation(
    ratings: npt.ArrayLike,
    *,
    model: Literal["ICC(2,1)", "ICC(3,1)"] = "ICC(2,1)",
    confidence: float = 0.95,
) -> Agreement:
    """Return the intraclass correlation of one reader's measurement, with its F interval.

    From the two-way analysis of variance with the mean squares of subjects (B), readers (J) and
    error (E), n subjects and k readers:

    * ICC(2,1), readers as a sample of all readers, absolute agreement:
      (B - E) / (B + (k - 1) E + k (J - E) / n). Any other reader is expected to agree as well.
    * ICC(3,1), these very readers, consistency: (B - E) / (B + (k - 1) E). Blind to a constant
      difference between the readers.

    Args:
        ratings: (n, k), n ≥ 2 subjects by k ≥ 2 readers, complete.
        model: which of the two.
        confidence: level of the interval, in (0, 1).

    Raises:
        ValueError: another shape, missing values, or ratings that do not vary at all.

    Shrout and Fleiss's own example:

    >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9],
    ...            [6, 2, 4, 7]]
    >>> round(intraclass_correlation(ratings).value, 2)
    0.29
    >>> round(intraclass_correlation(ratings, model="ICC(3,1)").value, 2)
    0.71
    """
    _quantile(confidence)
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
    tail = (1 - confidence) / 2
    if model == "ICC(3,1)":
        value = (subjects - error) / (subjects + (k - 1) * error)
        low, high = _consistency_bounds(subjects, error, n, k, tail)
    else:
        value = (subjects - error) / (subjects + (k - 1) * error + k * (readers - error) / n)
        low, high = _agreement_bounds(value, (subjects, readers, error), n, k, tail)
    return Agreement(value, low, high, n, confidence)


def limits_of_agreement(
    first: npt.ArrayLike, second: npt.ArrayLike, *, confidence: float = 0.95
) -> LimitsOfAgreement:
    """Return the bias between two measurements of the same subjects and its limits.

    The limits are bias ± q SD of the differences; their standard error is
    SD √(1/n + q² / (2 (n - 1))), and both intervals use Student's t with n - 1 degrees.

    Args:
        first: (n,), in the measurements' unit.
        second: (n,), same subjects in the same order.
        confidence: level of limits and intervals, in (0, 1).

    Raises:
        ValueError: values that are not finite, unequal lengths, or fewer than 3 pairs.

    >>> limits = limits_of_agreement([10, 12, 14], [11, 12, 13])
    >>> limits.bias, round(limits.low, 2), round(limits.high, 2)
    (0.0, -1.96, 1.96)
    """
    quantile = _quantile(confidence)
    one, two = _finite_vector("first", first), _finite_vector("second", second)
    if one.size != two.size or one.size < 3:
        raise ValueError(f"first has {one.size} values and second {two.size}; 3 pairs are needed")
    difference, n = one - two, one.size
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    student = float(t_distribution.isf((1 - confidence) / 2, n - 1))

    def around(centre: float, error: float) -> tuple[float, float]:
        return centre - student * error, centre + student * error

    spread = sd * float(np.sqrt(1 / n + quantile**2 / (2 * (n - 1))))
    low, high = bias - quantile * sd, bias + quantile * sd
    return LimitsOfAgreement(
        bias=bias,
        bias_ci=around(bias, sd / float(np.sqrt(n))),
        sd=sd,
        low=low,
        low_ci=around(low, spread),
        high=high,
        high_ci=around(high, spread),
        n=n,
        confidence=confidence,
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


def _perfect_agreement_bound(table: Floats, weights: str, tail: float) -> float:
    """Return the lower bound of kappa where nobody disagreed."""
    n, grades = table.sum(), np.arange(len(table))
    distance = np.abs(grades[:, None] - grades) ** (2 if weights == "quadratic" else 1)
    by_chance = table.sum(axis=1) @ distance @ table.sum(axis=0) / n**2
    return float(1 - (1 - tail ** (1 / n)) / by_chance)


def _consistency_bounds(
    subjects: float, error: float, n: int, k: int, tail: float
) -> tuple[float, float]:
    """Return the interval of ICC(3,1)."""
    if error == 0:
        return 1.0, 1.0
    degrees = (n - 1, (n - 1) * (k - 1))
    ratio = subjects / error
    low = ratio / f_distribution.isf(tail, *degrees)
    high = ratio * f_distribution.isf(tail, *degrees[::-1])
    return float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))


def _agreement_bounds(
    value: float, squares: tuple[float, float, float], n: int, k: int, tail: float
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
    below = f_distribution.isf(tail, n - 1, degrees)
    above = f_distribution.isf(tail, degrees, n - 1)
    low = n * (subjects - below * error) / (below * other + n * subjects)
    high = n * (above * subjects - error) / (other + n * above * subjects)
    return float(low), float(high)
