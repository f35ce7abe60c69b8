"""Cut points of a score: how they are chosen, and what they give where they are applied.

A threshold is judged fairly only on patients that had no part in choosing it. So choosing and
applying are two functions, and a result always states on which patients its threshold was chosen.

Sources: Youden 1950; Wilson 1927 for the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.estimates import (
    Estimate,
    Floats,
    check_calls,
    check_outcome,
    wilson_interval,
)
from monai_vfx.core.arrays import Json

DEFAULT_RULES: tuple[str, ...] = ("youden", "sensitivity_0.80")
SAME_ROWS = "same rows"
"""``chosen_on`` of a threshold that was chosen on the patients it is applied to: optimistic."""
FIXED = "fixed in advance"
"""``chosen_on`` of a threshold that no data chose: an absolute risk."""


@dataclass(frozen=True)
class Threshold:
    """A cut point and where it comes from; a patient is positive at or above it.

    Args:
        rule: as in :func:`choose_thresholds`.
        threshold: on the score's own scale.
        n: patients it was chosen on.
        events: those with a fracture.
    """

    rule: str
    threshold: float
    n: int
    events: int


def share_json(share: Estimate) -> Json:
    """Return a share with its interval and counts as ``evaluation.json`` holds it."""
    return {"value": share.value, "ci": share.ci, "successes": share.events, "n": share.n}


def parse_rule(rule: str) -> tuple[str, float]:
    """Return the kind of a rule and its number (NaN for Youden's).

    >>> parse_rule("sensitivity_0.80")
    ('sensitivity', 0.8)
    """
    if rule == "youden":
        return rule, math.nan
    kind, _, number = rule.partition("_")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if kind not in ("sensitivity", "risk") or not 0 < share < 1:
        raise ValueError(
            f"rule {rule!r} is unknown: youden, sensitivity_S or risk_R with a share in (0, 1)"
        )
    return kind, share


def choose_thresholds(
    y: npt.ArrayLike, score: npt.ArrayLike, rules: Sequence[str] = DEFAULT_RULES
) -> list[Threshold]:
    """Choose one cut point a rule on these patients.

    * ``youden``: the largest sensitivity + specificity - 1; of equally good ones the lowest, which
      finds more fractures.
    * ``sensitivity_S``: the highest with a sensitivity of at least S.
    * ``risk_R``: R itself, for a score that is an absolute risk; the patients play no part.

    Args:
        y: (n,), 0 or 1, both present.
        score: (n,), finite; higher means more likely to fracture. Thresholds are values of it.
        rules: any of the above.

    Raises:
        ValueError: anything ``check_outcome`` rejects, an unknown rule, or ``risk_R`` for
            values outside [0, 1].

    >>> chosen = choose_thresholds([0, 0, 1, 0, 1], [1, 2, 3, 4, 5], ["youden", "sensitivity_0.5"])
    >>> [(t.rule, t.threshold, t.n, t.events) for t in chosen]
    [('youden', 3.0, 5, 2), ('sensitivity_0.5', 5.0, 5, 2)]
    """
    outcome, scores = check_outcome(y, score=score)
    values = scores["score"]
    events = np.sort(values[outcome])
    found = []
    for rule in rules:
        kind, share = parse_rule(rule)
        if kind == "youden":
            cut = _youden(events, np.sort(values[~outcome]))
        elif kind == "sensitivity":
            # The guard keeps 0.8 × 10 patients at 8, whatever floating point makes of it.
            cut = float(events[-math.ceil(share * events.size - 1e-9)])
        else:
            if values.min() < 0 or values.max() > 1:
                raise ValueError(
                    f"{rule} needs risks in [0, 1]; found {values.min():g} to {values.max():g}"
                )
            cut = share
        found.append(Threshold(rule, cut, outcome.size, events.size))
    return found


def _youden(events: Floats, others: Floats) -> float:
    """Return Youden's cut point of two sorted classes, in whole numbers so that ties are exact."""
    cuts = np.unique(np.concatenate([events, others]))
    true_positive = events.size - np.searchsorted(events, cuts)
    false_positive = others.size - np.searchsorted(others, cuts)
    index = true_positive * others.size - false_positive * events.size
    return float(cuts[int(np.argmax(index))])


def operating_point(y: npt.ArrayLike, positive: npt.ArrayLike) -> dict[str, Estimate | None]:
    """Return what a decision gives, every share with its Wilson interval.

    Args:
        y: (n,), 0 or 1, both present.
        positive: (n,), 0 or 1: whether the patient was called positive, such as
            ``score >= threshold`` with one threshold for all or one a patient (that of the fold).

    Returns:
        ``accuracy``, ``sensitivity``, ``specificity``, ``ppv`` (None when nobody is positive) and
        ``npv`` (None when nobody is negative).

    >>> point = operating_point([1, 1, 0, 0, 0], [1, 0, 0, 0, 1])
    >>> point["sensitivity"].value, point["accuracy"].events, point["ppv"].n
    (0.5, 3, 2)
    """
    outcome, calls = check_outcome(y, positive=positive)
    (called,) = check_calls(**calls)
    right = called == outcome
    among = {"accuracy": np.ones_like(outcome), "sensitivity": outcome, "specificity": ~outcome}
    return {
        name: wilson_interval(int((right & who).sum()), int(who.sum())) if who.any() else None
        for name, who in (among | {"ppv": called, "npv": ~called}).items()
    }


def point_json(point: dict[str, Estimate | None]) -> Json:
    """Return the five shares as ``evaluation.json`` holds them."""
    return {name: share and share_json(share) for name, share in point.items()}
