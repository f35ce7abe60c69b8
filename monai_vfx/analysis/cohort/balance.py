"""How alike cases and controls are, before and after matching.

Sources: Austin 2009 (standardised differences of means and shares), Stuart 2010 (one denominator
before and after, so that only the difference of the means changes; variance ratios).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.cohort.variables import VARIABLES, label
from monai_vfx.core.cells import Kind
from monai_vfx.core.errors import CaseRefused

Floats = npt.NDArray[np.float64]


def balance(before: pd.DataFrame, after: pd.DataFrame, variables: Sequence[str]) -> pd.DataFrame:
    """Compare cases (``fracture`` = 1) with the others, variable by variable.

    A standardised difference is that of the means, cases minus others, divided by the pooled SD
    √((s₁² + s₀²) / 2) of the rows **before** matching, in both columns. For a share p the variance
    is p (1 - p). Less than 0.1 is commonly called balanced.

    Args:
        before: patient table, everyone who could have been chosen.
        after: the matched rows, one a member of a set (``Matched.expanded()``).
        variables: columns of the patient table, or ``scan_year``; a category gives a row a level,
            ``sex`` one row, the share of women.

    Returns:
        One row a variable or level: ``variable``, ``level`` (empty unless a category), ``label``;
        then for ``before`` and ``after`` each: ``n_…`` (known values), ``missing_…``,
        ``cases_…`` and ``others_…`` (mean or share), ``smd_…`` and ``variance_ratio_…`` (cases /
        others; continuous variables only). What cannot be computed is NaN.

    >>> table = pd.DataFrame({"fracture": [1, 1, 0, 0], "age": [70.0, 74.0, 60.0, 64.0]})
    >>> balance(table, table.iloc[:3], ["age"])[["label", "smd_before", "smd_after"]].round(2)
            label  smd_before  smd_after
    0  Age, years        3.54       4.24
    """
    rows = []
    for name in variables:
        kind = kind_of(before, name)
        ahead, later = (_as_numbers(table, name, kind) for table in (before, after))
        for level, first in ahead.items():
            # A level that matching left nobody of has a share of 0 afterwards, not an unknown one.
            second = later.get(level, 0.0 * next(iter(later.values())))
            row: dict[str, object] = {"variable": name, "level": level, "label": label(name)}
            if level:
                row["label"] = f"{label(name)}: {'female' if name == 'sex' else level}"
            groups = _groups(before, first)
            scale = np.sqrt((_variance(groups[0], kind) + _variance(groups[1], kind)) / 2)
            row |= _compared("before", groups, kind, scale, missing=int(first.isna().sum()))
            groups = _groups(after, second)
            row |= _compared("after", groups, kind, scale, missing=int(second.isna().sum()))
            rows.append(row)
    return pd.DataFrame(rows)


def kind_of(frame: pd.DataFrame, name: str) -> Kind:
    """Return the kind of a variable; a column that is not registered is judged by its values."""
    _check_column(frame, name)
    if name in VARIABLES:
        return VARIABLES[name].kind
    values = frame[name].dropna()
    if values.isin([0, 1]).all():
        return "binary"
    return "continuous" if values.dtype.kind in "iuf" else "category"


def _check_column(frame: pd.DataFrame, name: str) -> None:
    column = "scan_date" if name == "scan_year" else name
    if column not in frame:
        raise CaseRefused("cohort_invalid", f"the table has no column {column}")


def _as_numbers(frame: pd.DataFrame, name: str, kind: Kind) -> dict[str, pd.Series[float]]:
    """Return the values under the level's name: empty for a variable without levels."""
    _check_column(frame, name)
    if name == "scan_year":
        return {"": pd.to_datetime(frame["scan_date"]).dt.year.astype(float)}
    values = frame[name]
    if kind != "category":
        return {"": values.astype(float)}
    levels = ["F"] if name == "sex" else sorted(values.dropna().unique())
    return {
        str(level): (values == level).astype(float).where(values.notna(), np.nan)
        for level in levels
    }


def _groups(frame: pd.DataFrame, values: pd.Series[float]) -> tuple[Floats, Floats]:
    """Return the known values of the cases and of the others."""
    is_case = frame["fracture"].to_numpy() == 1
    numbers = values.to_numpy(np.float64)
    known = ~np.isnan(numbers)
    return numbers[is_case & known], numbers[~is_case & known]


def _compared(
    when: str, groups: tuple[Floats, Floats], kind: Kind, scale: float, missing: int
) -> dict[str, float]:
    cases, others = groups
    mean_cases, mean_others = (g.mean() if g.size else np.nan for g in groups)
    ratio = np.nan
    if kind == "continuous" and _variance(others, kind) > 0:
        ratio = _variance(cases, kind) / _variance(others, kind)
    gap = mean_cases - mean_others
    # Two groups that are constant and equal do not differ; constant and unequal has no scale.
    standardised = gap / scale if scale > 0 else (0.0 if gap == 0 else np.nan)
    return {
        f"n_{when}": cases.size + others.size,
        f"missing_{when}": missing,
        f"cases_{when}": mean_cases,
        f"others_{when}": mean_others,
        f"smd_{when}": standardised,
        f"variance_ratio_{when}": ratio,
    }


def _variance(values: Floats, kind: Kind) -> float:
    if kind == "continuous":
        return float(values.var(ddof=1)) if values.size > 1 else float("nan")
    share = values.mean() if values.size else float("nan")
    return float(share * (1 - share))
