"""Folds of a cross-validation: stratified by outcome, patients and matched pairs kept whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.groups import Rows, tied_rows
from monai_vfx.core.errors import SettingError


def patient_groups(frame: pd.DataFrame) -> Rows:
    """Return for each row the first row that patients and pairs tie it to, (n,).

    Rows that share a ``patient_id`` or a ``pair_id``, directly or through others, are one group and
    must stay in one fold. Both columns are optional; an empty cell ties nothing.

    >>> table = pd.DataFrame({"patient_id": ["a", "b", "a"], "pair_id": [None, "p", "p"]})
    >>> patient_groups(table).tolist()
    [0, 0, 0]
    """
    return tied_rows(len(frame), *(frame[n] for n in ("patient_id", "pair_id") if n in frame))


def table_folds(frame: pd.DataFrame, folds: int | None = None, seed: int = 0) -> Rows:
    """Return the folds that a patient table gives, (n,), or new ones where it gives none.

    Args:
        frame: with ``case_id`` and ``fracture``; ``fold``, ``patient_id`` and ``pair_id`` where
            there are such.
        folds: how many there must be; by default as many as the table gives, or 10 new ones.
        seed: of new folds.

    Raises:
        SettingError: see :func:`assign_folds` and :func:`check_folds`.
    """
    groups = frame["case_id"].to_numpy()[patient_groups(frame)]
    if "fold" in frame and frame["fold"].notna().any():
        return check_folds(frame["fold"], groups, folds)
    return assign_folds(frame["fracture"], groups, 10 if folds is None else folds, seed)


def assign_folds(labels: npt.ArrayLike, groups: npt.ArrayLike, folds: int, seed: int = 0) -> Rows:
    """Return a fold for each row, (n,), from 0.

    Args:
        labels: (n,) 0 or 1, spread evenly over the folds.
        groups: (n,) names; rows of one group fall into one fold. The split depends on the order of
            the names, so groups are called by the ``case_id`` of their first row everywhere.
        folds: their number, at least 2.
        seed: of the shuffle.

    Raises:
        SettingError: a class has fewer groups than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    y, names = np.asarray(labels), np.asarray(groups)
    smallest = min(len(set(names[y == value])) for value in (0, 1))
    if folds < 2 or smallest < folds:
        raise SettingError(
            f"folds ({folds}) must be at least 2 and at most the smaller class ({smallest} "
            "patients)"
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    assigned = np.empty(len(y), np.int64)
    for number, (_, held_out) in enumerate(splitter.split(np.zeros(len(y)), y, names)):
        assigned[held_out] = number
    return assigned


def check_folds(given: npt.ArrayLike, groups: npt.ArrayLike, folds: int | None = None) -> Rows:
    """Return the folds that a table gives, (n,).

    Args:
        given: (n,) fold of each row, NaN where the cell is empty.
        groups: (n,) name or number of each row's group.
        folds: how many there must be; None for two or more.

    Raises:
        SettingError: a row has no fold, their number is another, or a group lies in several.
    """
    numbers = np.asarray(given, np.float64)
    without = int(np.isnan(numbers).sum())
    if without:
        raise SettingError(
            f"fold: {without} of {numbers.size} rows have none; fill the column or leave it out"
        )
    found = sorted({int(number) for number in numbers})
    if folds is not None and found != [*range(folds)]:
        raise SettingError(
            f"folds ({folds}) does not match the table's column fold, which holds "
            f"{', '.join(map(str, found))}"
        )
    if len(found) < 2:
        raise SettingError("the table must hold at least two folds")
    per_group = pd.Series(numbers).groupby(np.asarray(groups), sort=False).nunique()
    torn = per_group.index[per_group > 1]
    if len(torn):
        raise SettingError(
            f"fold: {len(torn)} groups of one patient or matched pair lie in several folds, among "
            f"them that of case {torn[0]}"
        )
    return numbers.astype(np.int64)
