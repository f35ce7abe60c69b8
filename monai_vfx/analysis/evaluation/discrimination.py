"""How well a score separates patients with and without a fracture.

The unit is the patient: every number carries how many patients (``n``) and how many fractures
(``events``) it rests on.

Sources: DeLong, DeLong and Clarke-Pearson 1988 (variance and paired test of AUROC) computed from
mid-ranks as in Sun and Xu 2014; Hanley and McNeil 1982.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_curve as _sklearn_roc_curve

from monai_vfx.analysis.evaluation.estimates import (
    Area,
    Bools,
    Floats,
    check_outcome,
    extreme_interval,
    logit_interval,
)
from monai_vfx.core.arrays import Json


@dataclass(frozen=True)
class DelongTest:
    """Two AUROCs of the same patients, compared.

    Args:
        auroc_a: AUROC of the first score.
        auroc_b: AUROC of the second score.
        difference: ``auroc_a - auroc_b``.
        variance: of the difference, covariance included.
        z: the statistic; its sign is that of the difference.
        p: two-sided, in (0, 1].
        n: patients.
        events: patients with a fracture.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    variance: float
    z: float
    p: float
    n: int
    events: int


def auroc(y: npt.ArrayLike, score: npt.ArrayLike) -> Area:
    """Return the AUROC of a score with its variance and an interval on the logit scale.

    The AUROC is the probability that a random patient with a fracture scores higher than a random
    one without, ties counted half. The interval is that of :func:`.estimates.logit_interval` with
    DeLong's variance (method ``delong_logit``), and where that has no answer:

    * ``hanley_mcneil_logit``: DeLong's variance cannot be computed (one patient in a class) or is
      zero although the AUROC is neither 0 nor 1 (all scores equal, say); Hanley and McNeil's takes
      its place.
    * ``exact_extreme``: the AUROC is exactly 1 or 0, any variance estimate is zero and the bound is
      that of :func:`.estimates.extreme_interval`.

    >>> area = auroc([0, 0, 1, 1, 1], [0.1, 0.4, 0.35, 0.8, 0.4])
    >>> f"{area.value:.3f} ({area.low:.3f}-{area.high:.3f}; {area.events} events of {area.n})"
    '0.750 (0.128-0.984; 3 events of 5)'
    """
    outcome, scores = check_outcome(y, score=score)
    events, others = _placements(outcome, scores["score"])
    m, k = events.size, others.size
    value = float(events.mean() / k)
    if value in (0.0, 1.0):
        low, high = extreme_interval(value, min(m, k))
        return Area(value, low, high, m + k, m, "exact_extreme")
    if min(m, k) < 2 or (np.ptp(events) == 0 and np.ptp(others) == 0):
        method, variance = "hanley_mcneil_logit", hanley_mcneil_variance(value, m, k)
    else:
        method, variance = "delong_logit", _variance(events, others)
    low, high = logit_interval(value, variance)
    return Area(value, low, high, m + k, m, method, variance)


def auroc_json(area: Area) -> Json:
    """Return the entry that ``evaluation.json`` holds of an AUROC."""
    return {
        "n": area.n,
        "events": area.events,
        "auroc": area.value,
        "auroc_variance": area.variance,
        "auroc_ci": area.ci,
        "auroc_interval": area.method,
    }


def hanley_mcneil_variance(value: float, events: int, nonevents: int) -> float:
    """Return the variance of an AUROC from its value and the two class sizes alone.

    Hanley and McNeil 1982, with Q1 = A / (2 - A) and Q2 = 2 A² / (1 + A). Good for checking a
    published interval; DeLong's is better where the scores are at hand.

    An AUROC of 0.827 with 61 events of 495 has a 95 % interval of 0.762 to 0.892:

    >>> half = 1.96 * hanley_mcneil_variance(0.827, events=61, nonevents=434) ** 0.5
    >>> f"{0.827 - half:.3f} {0.827 + half:.3f}"
    '0.762 0.892'
    """
    if not 0 <= value <= 1:
        raise ValueError(f"value ({value}) must lie in [0, 1]")
    if events < 1 or nonevents < 1:
        raise ValueError(f"events ({events}) and nonevents ({nonevents}) must be at least 1")
    square = value * value
    two_events = value / (2 - value) - square
    two_others = 2 * square / (1 + value) - square
    spread = value * (1 - value) + (events - 1) * two_events + (nonevents - 1) * two_others
    return spread / (events * nonevents)


def delong_test(y: npt.ArrayLike, score_a: npt.ArrayLike, score_b: npt.ArrayLike) -> DelongTest:
    """Compare the AUROCs of two scores that the same patients have (two-sided).

    Scores that rank the patients alike give a difference of 0 and p = 1. When the difference is
    the same for every patient of a class its variance estimate is zero and the normal test would
    claim certainty; then p is that of the exact sign test over the k patients of the smaller
    class, 2^(1-k), and z the normal quantile that belongs to it.
    """
    outcome, scores = check_outcome(y, score_a=score_a, score_b=score_b)
    events_a, others_a = _placements(outcome, scores["score_a"])
    events_b, others_b = _placements(outcome, scores["score_b"])
    m, k = events_a.size, others_a.size
    if min(m, k) < 2:
        raise ValueError(f"y holds {m} fractures among {m + k} patients; two of each are needed")
    events, others = events_a - events_b, others_a - others_b
    difference = float(events.mean() / k)
    variance = _variance(events, others)
    if np.ptp(events) == 0 and np.ptp(others) == 0:
        variance = 0.0
        p = 1.0 if difference == 0 else min(1.0, 2.0 ** (1 - min(m, k)))
        z = float(np.sign(difference) * norm.isf(p / 2))
    else:
        z = difference / float(np.sqrt(variance))
        p = float(2 * norm.sf(abs(z)))
    return DelongTest(
        auroc_a=float(events_a.mean() / k),
        auroc_b=float(events_b.mean() / k),
        difference=difference,
        variance=variance,
        z=z,
        p=p,
        n=m + k,
        events=m,
    )


def roc_curve(y: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return the corners of the ROC curve (scikit-learn's, points on a straight line dropped).

    Returns:
        False positive rates and true positive rates, (k,) each, rising from 0 to 1, and thresholds,
        (k,), falling; a patient is positive at or above one; the first is infinite.

    >>> false_positive, true_positive, _ = roc_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> false_positive.tolist(), true_positive.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    outcome, scores = check_outcome(y, score=score)
    found = _sklearn_roc_curve(outcome, scores["score"])
    false_positive, true_positive, thresholds = (np.asarray(part, np.float64) for part in found)
    return false_positive, true_positive, thresholds


def _variance(events: Floats, others: Floats) -> float:
    """Return DeLong's variance of an AUROC, or of a difference, from its placements."""
    m, k = events.size, others.size
    return float((events / k).var(ddof=1) / m + (others / m).var(ddof=1) / k)


def _placements(outcome: Bools, score: Floats) -> tuple[Floats, Floats]:
    """Count, for each patient, the patients of the other class on its right side (ties half).

    A mid-rank among all minus the mid-rank within the class is that count. The results are whole
    or half numbers, exact in floating point, so that equality can be tested on them.

    Returns:
        (events,) non-events below each event, and (nonevents,) events above each non-event.
    """
    ranks = rankdata(score)
    events = ranks[outcome] - rankdata(score[outcome])
    others = ranks[~outcome] - rankdata(score[~outcome])
    return events, float(outcome.sum()) - others
