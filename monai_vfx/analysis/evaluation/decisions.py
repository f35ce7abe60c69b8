"""Decisions of a table's scores: by thresholds chosen elsewhere, or here, which is then said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from monai_vfx.analysis.evaluation.estimates import Floats
from monai_vfx.analysis.evaluation.score_table import fold_name
from monai_vfx.analysis.evaluation.thresholds import (
    FIXED,
    SAME_ROWS,
    choose_thresholds,
    parse_rule,
)
from monai_vfx.core.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd

FROZEN = "frozen"
"""The ``fold`` of a threshold that holds for patients outside all folds."""
COLUMNS = ("score", "fold", "rule", "threshold", "chosen_on")


@dataclass(frozen=True)
class Decision:
    """Who a score calls positive by one rule.

    Args:
        rule: as in :func:`.thresholds.choose_thresholds`.
        threshold: the one cut point for all; None when each fold has its own.
        chosen_on: which patients the cut point was chosen on, in words.
        positive: (n,), 1 at or above the cut point, else 0; NaN where there is no score.
    """

    rule: str
    threshold: float | None
    chosen_on: str
    positive: Floats


def decide(
    table: pd.DataFrame,
    label: str,
    score: str,
    thresholds: pd.DataFrame | None,
    rules: Sequence[str],
    *,
    is_risk: bool,
) -> list[Decision]:
    """Return a score's decisions, one a rule.

    Args:
        table: of :func:`monai_vfx.analysis.evaluation.score_table.check_table`.
        label: column of the outcome.
        score: column.
        thresholds: chosen elsewhere, with the columns of ``COLUMNS``; None or without this score:
            cut points are chosen here by ``rules``.
        rules: for the latter; ``risk_R`` is passed over for a score that is no risk.
        is_risk: whether the score is an absolute risk.
    """
    values = table[score].to_numpy(np.float64)
    if thresholds is not None:
        _check_columns(thresholds)
        own = thresholds[thresholds["score"].astype(str) == score]
        if len(own):
            return _by_table(table, score, values, own)
    return _by_rules(table[label].to_numpy(np.float64), values, rules, is_risk)


def _by_rules(y: Floats, values: Floats, rules: Sequence[str], is_risk: bool) -> list[Decision]:
    there = np.isfinite(values)
    try:
        usable = [rule for rule in rules if is_risk or parse_rule(rule)[0] != "risk"]
        chosen = choose_thresholds(y[there], values[there], usable)
    except ValueError as error:
        raise SettingError(str(error)) from error
    return [
        Decision(
            found.rule,
            found.threshold,
            FIXED if parse_rule(found.rule)[0] == "risk" else SAME_ROWS,
            _calls(values, found.threshold),
        )
        for found in chosen
    ]


def _by_table(table: pd.DataFrame, score: str, values: Floats, own: pd.DataFrame) -> list[Decision]:
    """Apply thresholds chosen elsewhere: each patient takes the fold's own, or the frozen one."""
    folds = np.array(table["fold"]) if "fold" in table else np.full(len(table), "")
    found = []
    for rule, rows in own.groupby("rule", sort=False):
        cuts = {
            fold_name(row.fold): (_cut(row.threshold, score), str(row.chosen_on))
            for row in rows.itertuples()
        }
        if len(cuts) < len(rows):
            raise SettingError(f"thresholds: {score} has two for one fold by the rule {rule}")
        # Patients of the development set carry a fold; those of the external set do not. A table
        # of frozen thresholds alone may be applied to both.
        by_fold = (folds != "") & (set(cuts) != {FROZEN})
        needed = np.where(by_fold, folds, FROZEN)[np.isfinite(values)]
        lacking = sorted(set(needed.tolist()) - set(cuts))
        if lacking:
            raise SettingError(
                f"thresholds: {score} has none by the rule {rule} for the folds "
                f"{', '.join(lacking)}"
            )
        used = sorted(set(needed.tolist()))
        cut = np.array(
            [cuts.get(fold, (np.nan, ""))[0] for fold in np.where(by_fold, folds, FROZEN)]
        )
        found.append(
            Decision(
                str(rule),
                cuts[FROZEN][0] if used == [FROZEN] else None,
                " and ".join(sorted({cuts[fold][1] for fold in used})),
                _calls(values, cut),
            )
        )
    return found


def _check_columns(thresholds: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in thresholds]
    if missing:
        raise SettingError(
            f"thresholds lack the columns {', '.join(missing)}; there are: "
            f"{', '.join(str(name) for name in thresholds)}"
        )


def _cut(cell: object, score: str) -> float:
    try:
        cut = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        cut = np.nan
    if not np.isfinite(cut):
        raise SettingError(f"thresholds: {cell!r} of {score} is no finite number")
    return cut


def _calls(values: Floats, cut: float | Floats) -> Floats:
    return np.where(np.isfinite(values), (values >= cut).astype(np.float64), np.nan)
