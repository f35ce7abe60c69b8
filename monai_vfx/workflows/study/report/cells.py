"""How the report writes scores and numbers: the text of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

SETS = ("development", "external")
SET_LABELS = {
    "development": "Development set (out-of-fold)",
    "external": "External set",
}
DASH = "–"
"""Shown where a number does not exist."""

SCORE_LABELS = {
    "image_bone": "Image, bone only",
    "image_bone_muscle": "Image, bone + muscle",
    "image_hazard": "Image, yearly hazards",
    **{f"clinical_{m}": f"Clinical {m} (XGBoost)" for m in "ABCD"},
    **{f"logistic_{m}": f"Clinical {m} (logistic)" for m in "ABCD"},
    "imaging_baseline": "Imaging baseline (logistic, mask features)",
    "frax_major": "FRAX major osteoporotic",
    "frax_hip": "FRAX hip",
    **{f"fusion_{m}": f"Image + clinical {m} (in the network)" for m in "ABCD"},
    **{f"late_fusion_{m}": f"Image + clinical {m} (late fusion)" for m in "ABCD"},
    "matched_only": "Matched variables only (negative control)",
}
"""Name of a score in the study's files → label, in the order of the tables."""


def label_of(score: str) -> str:
    """Return the label of a score; an unknown score keeps its own name.

    >>> label_of("clinical_A"), label_of("image_tall")
    ('Clinical A (XGBoost)', 'Image, tall')
    """
    if score in SCORE_LABELS:
        return SCORE_LABELS[score]
    if score.startswith("risk_"):
        return f"Five-year risk ({label_of(score.removeprefix('risk_')).lower()})"
    rest = score.removeprefix("image_")
    return score if rest == score else f"Image, {rest.replace('_', ' ')}"


def in_order(scores: Iterable[str]) -> list[str]:
    """Sort scores in the order of the tables; unknown ones follow by name."""
    order = {name: n for n, name in enumerate(SCORE_LABELS)}
    return sorted(scores, key=lambda name: (order.get(name, len(order)), name))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, or a dash for None.

    >>> number(0.73949), number(None), number(-0.0001)
    ('0.739', '–', '0.000')
    """
    if value is None or pd.isna(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def interval(bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """Return an interval in brackets, or a dash for None.

    >>> interval([0.674, 0.68]), interval([-0.1, 0.2], 1), interval(None)
    ('(0.674–0.680)', '(−0.1 to 0.2)', '–')
    """
    if bounds is None or any(bound is None or pd.isna(bound) for bound in bounds):
        return DASH
    low, high = (number(bound, digits) for bound in bounds)
    between = " to " if "\N{MINUS SIGN}" in low + high else "–"
    return f"({low}{between}{high})"


def estimate(value: float | None, bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """Return a value with its interval.

    >>> estimate(0.677, [0.674, 0.68]), estimate(None, None)
    ('0.677 (0.674–0.680)', '–')
    """
    if value is None:
        return DASH
    return number(value, digits) + ("" if bounds is None else " " + interval(bounds, digits))


def percent(share: float | None) -> str:
    """Return a share in percent.

    >>> percent(0.12323).split(), percent(None)
    (['12.3', '%'], '–')
    """
    return DASH if share is None else f"{number(100 * share, 1)}\N{NO-BREAK SPACE}%"


def p_value(p: float | None) -> str:
    """Return a p-value as journals print it.

    >>> p_value(0.0004), p_value(0.0449), p_value(1.0), p_value(None)
    ('<0.001', '0.045', '1.000', '–')
    """
    if p is None or pd.isna(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def counts(n: int | None, events: int | None) -> str:
    """Return patients and fractures as one cell.

    >>> counts(495, 61)
    '495 (61)'
    """
    return DASH if n is None else f"{n:,} ({number(events, 0)})"
