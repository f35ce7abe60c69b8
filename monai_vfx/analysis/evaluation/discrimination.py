"""How well a score separates patients with and without a fracture, with honest intervals.

The unit is the patient: every number carries how many patients (``n``) and how many fractures
(``events``) it rests on. Nothing here accepts missing values, weights, or repeated patients.

Sources: DeLong, DeLong and Clarke-Pearson 1988 (variance and paired test of AUROC) computed from
mid-ranks as in Sun and Xu 2014; Hanley and McNeil 1982; Clopper and Pearson 1934; Wilson 1927.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_curve as _sklearn_roc_curve

from monai_vfx.core.arrays import Json

Floats = npt.NDArray[np.float64]
IntervalMethod = Literal["delong_logit", "hanley_mcneil_logit", "exact_extreme"]


@dataclass(frozen=True)
class Auroc:
    """An area under the ROC curve.

    Args:
        value: in [0, 1]; the probability that a random patient with a fracture scores higher than
            a random one without, ties counted half.
        variance: of ``value``; DeLong's, or Hanley and McNeil's where ``interval`` says so.
        ci_low: lower bound, in [0, 1].
        ci_high: upper bound, in [0, 1].
        n: patients.
        events: patients with a fracture.
        interval: how the bounds came about, see :func:`auroc`.
        confidence: level of the interval.
    """

    value: float
    variance: float
    ci_low: float
    ci_high: float
    n: int
    events: int
    interval: IntervalMethod = "delong_logit"
    confidence: float = 0.95

    def to_json(self) -> Json:
        """Return the entry that ``evaluation.json`` holds for a score."""
        return {
            "n": self.n,
            "events": self.events,
            "auroc": self.value,
            "auroc_variance": self.variance,
            "auroc_ci": [self.ci_low, self.ci_high],
            "auroc_interval": self.interval,
            "confidence": self.confidence,
        }

    def __str__(self) -> str:
        return (
            f"AUROC {self.value:.3f} ({self.confidence:.0%} interval "
            f"{self.ci_low:.3f}-{self.ci_high:.3f}; {self.events} events of {self.n})"
        )


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


@dataclass(frozen=True)
class Proportion:
    """A share of patients with its Wilson interval.

    Args:
        value: ``successes / n``.
        ci_low: lower bound, in [0, 1].
        ci_high: upper bound, in [0, 1].
        successes: patients counted.
        n: patients in all.
        confidence: level of the interval.
    """

    value: float
    ci_low: float
    ci_high: float
    successes: int
    n: int
    confidence: float = 0.95


@dataclass(frozen=True)
class RocCurve:
    """The corners of a ROC curve, from (0, 0) to (1, 1).

    Args:
        false_positive_rate: (k,), 1 - specificity, rising.
        true_positive_rate: (k,), sensitivity, rising.
        thresholds: (k,), falling; a patient is positive at or above it; the first is infinite
            (nobody is positive).
        n: patients.
        events: patients with a fracture.
    """

    false_positive_rate: Floats
    true_positive_rate: Floats
    thresholds: Floats
    n: int
    events: int


def check_outcome(
    y: npt.ArrayLike, **scores: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], dict[str, Floats]]:
    """Let only usable outcomes and scores pass: the one gate of this module.

    Args:
        y: (n,), 0 or False without, 1 or True with a fracture; both must occur.
        **scores: (n,) each, finite, higher meaning more likely to fracture.

    Returns:
        ``y`` as booleans (n,), and each score as float64 (n,) under its name.

    Raises:
        ValueError: names the argument, the value found and the rule.

    >>> check_outcome([0, 1, 2], score=[0.1, 0.2, 0.3])
    Traceback (most recent call last):
    ...
    ValueError: y holds 2.0 at position 2; only 0 (no fracture) and 1 (fracture) are accepted
    """
    outcome = _finite_vector("y", y)
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
    checked: dict[str, Floats] = {}
    for name, values in scores.items():
        score = _finite_vector(name, values)
        if score.size != outcome.size:
            raise ValueError(
                f"{name} has {score.size} values but y has {outcome.size}; one a patient is needed"
            )
        checked[name] = score
    return outcome == 1, checked


def auroc(y: npt.ArrayLike, score: npt.ArrayLike, *, confidence: float = 0.95) -> Auroc:
    """Return the AUROC of a score with an interval on the logit scale.

    With A the AUROC, V DeLong's variance and q the normal quantile, the bounds are
    expit(logit A ± q √V / (A (1 - A))), so they stay within (0, 1). Where that has no answer, the
    field ``interval`` names what was done instead; no bound is ever undefined:

    * ``hanley_mcneil_logit``: DeLong's variance cannot be computed (one patient in a class) or is
      zero although A is neither 0 nor 1 (all scores equal, say); Hanley and McNeil's takes its
      place, and ``variance`` holds it.
    * ``exact_extreme``: A is exactly 1 or 0, so its logit is infinite and any variance estimate is
      zero. With k the size of the smaller class, the bound is Clopper and Pearson's for k of k
      successes: [(α/2)^(1/k), 1] for A = 1 and its mirror image for A = 0.

    Args:
        y: (n,), 0 or 1, both present.
        score: (n,), finite; higher means more likely to fracture. Any monotone scale will do.
        confidence: level of the interval, in (0, 1).

    Raises:
        ValueError: on anything :func:`check_outcome` rejects, or a level outside (0, 1).

    >>> print(auroc([0, 0, 1, 1, 1], [0.1, 0.4, 0.35, 0.8, 0.4]))
    AUROC 0.750 (95% interval 0.128-0.984; 3 events of 5)
    """
    outcome, scores = check_outcome(y, score=score)
    quantile = _quantile(confidence)
    events, others = _placements(outcome, scores["score"])
    m, k = events.size, others.size
    value = float(events.mean() / k)
    if value in (0.0, 1.0):
        bound = float(((1 - confidence) / 2) ** (1 / min(m, k)))
        low, high = (bound, 1.0) if value == 1.0 else (0.0, 1.0 - bound)
        return Auroc(value, 0.0, low, high, m + k, m, "exact_extreme", confidence)
    method: IntervalMethod = "delong_logit"
    if min(m, k) < 2 or (np.ptp(events) == 0 and np.ptp(others) == 0):
        method = "hanley_mcneil_logit"
        variance = hanley_mcneil_variance(value, events=m, nonevents=k)
    else:
        variance = float((events / k).var(ddof=1) / m + (others / m).var(ddof=1) / k)
    half = quantile * np.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-half, half]))
    return Auroc(value, variance, float(low), float(high), m + k, m, method, confidence)


def hanley_mcneil_variance(value: float, *, events: int, nonevents: int) -> float:
    """Return the variance of an AUROC from its value and the two class sizes alone.

    Hanley and McNeil 1982, with Q1 = A / (2 - A) and Q2 = 2 A² / (1 + A). Good for checking a
    published interval; DeLong's is better where the scores are at hand.

    Args:
        value: AUROC, in [0, 1].
        events: patients with a fracture, at least 1.
        nonevents: patients without, at least 1.

    Raises:
        ValueError: on a value outside [0, 1] or an empty class.

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

    Args:
        y: (n,), 0 or 1, at least two of each.
        score_a: (n,), finite.
        score_b: (n,), finite, of the same patients in the same order.

    Raises:
        ValueError: on anything :func:`check_outcome` rejects, or a class with one patient.
    """
    outcome, scores = check_outcome(y, score_a=score_a, score_b=score_b)
    events_a, others_a = _placements(outcome, scores["score_a"])
    events_b, others_b = _placements(outcome, scores["score_b"])
    m, k = events_a.size, others_a.size
    if min(m, k) < 2:
        raise ValueError(f"y holds {m} fractures among {m + k} patients; two of each are needed")
    events, others = events_a - events_b, others_a - others_b
    difference = float(events.mean() / k)
    variance = float((events / k).var(ddof=1) / m + (others / m).var(ddof=1) / k)
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


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Proportion:
    """Return a share with its score interval (Wilson 1927), which behaves at 0 and at n too.

    Args:
        successes: patients counted, 0 to ``n``.
        n: patients in all, at least 1.
        confidence: level of the interval, in (0, 1).

    Raises:
        ValueError: on counts that are no counts, or a level outside (0, 1).

    >>> share = wilson_interval(0, 10)
    >>> f"{share.value:.2f} {share.ci_low:.3f} {share.ci_high:.3f}"
    '0.00 0.000 0.278'
    """
    quantile = _quantile(confidence)
    if n < 1 or int(n) != n:
        raise ValueError(f"n ({n}) must be a whole number of at least 1")
    if not 0 <= successes <= n or int(successes) != successes:
        raise ValueError(f"successes ({successes}) must be a whole number from 0 to n ({n})")
    share = successes / n
    square = quantile**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = quantile * np.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    # At the ends one bound is exactly 0 or 1; rounding must not push the share out of its interval.
    low = 0.0 if successes == 0 else float(middle - half)
    high = 1.0 if successes == n else float(middle + half)
    return Proportion(share, low, high, int(successes), int(n), confidence)


def roc_curve(y: npt.ArrayLike, score: npt.ArrayLike) -> RocCurve:
    """Return the ROC curve's corners (scikit-learn's, points on a straight line dropped).

    Args:
        y: (n,), 0 or 1, both present.
        score: (n,), finite; higher means more likely to fracture.

    Raises:
        ValueError: on anything :func:`check_outcome` rejects.

    >>> curve = roc_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    outcome, scores = check_outcome(y, score=score)
    false_positive, true_positive, thresholds = _sklearn_roc_curve(outcome, scores["score"])
    return RocCurve(
        np.asarray(false_positive, np.float64),
        np.asarray(true_positive, np.float64),
        np.asarray(thresholds, np.float64),
        n=outcome.size,
        events=int(outcome.sum()),
    )


def _finite_vector(name: str, values: npt.ArrayLike) -> Floats:
    """Return (n,) finite float64 or say what is wrong with the argument ``name``."""
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


def _quantile(confidence: float) -> float:
    """Return the two-sided normal quantile of a confidence level."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence ({confidence}) must lie between 0 and 1")
    return float(norm.isf((1 - confidence) / 2))


def _placements(outcome: npt.NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
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
