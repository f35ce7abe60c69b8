"""Tables 1 and 2: two groups of patients compared.

Layout, counts, means and standardised differences are tableone's; the tests are scipy's: Student's
t and chi-square, as in the study. tableone's own chi-square of a 2 × 2 table has a continuity
correction, which makes p too large; Pearson's plain one is used here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.cohort.balance import kind_of
from monai_vfx.analysis.cohort.variables import CLINICAL, label
from monai_vfx.core.errors import CaseRefused

MIN_EXPECTED = 5
"""With a smaller expected count in a 2 × 2 table Fisher's exact test takes chi-square's place."""


def baseline_table(
    frame: pd.DataFrame,
    by: str,
    variables: Sequence[str] | None = None,
    welch: bool = False,
    smd: bool = True,
) -> pd.DataFrame:
    """Describe two groups of patients.

    Continuous variables are mean ± SD with Student's t (or Welch's), the others n (% of the known)
    with Pearson's chi-square, or Fisher's exact test where the expected counts of a 2 × 2 table are
    below 5. Each row leaves out the patients whose value is unknown and says how many.

    Args:
        frame: patient table.
        by: column with the two groups, such as ``fracture``.
        variables: in the order of the rows; by default the clinical variables, the FRAX scores and
            the fracture, as far as the table has them.
        welch: whether the t-test allows unequal variances.
        smd: whether to add standardised differences (second group minus first; for a category
            their size only).

    Returns:
        Text, ready for a CSV: ``variable``, ``level``, ``label``, ``missing`` (n), a column a group
        (named by its value, sorted), ``p``, ``test`` and, if wanted, ``smd``. The first row counts
        the patients. A binary variable is the row of those who have it, sex that of the women, a
        category one row a level with p, test and SMD in its first.

    >>> table = pd.DataFrame({"fracture": [0, 0, 0, 1, 1, 1], "age": [60, 64, 68, 70, 74, 78]})
    >>> baseline_table(table, "fracture", smd=False)[["label", "0", "1", "p", "test"]]
              label           0           1      p       test
    0  Participants           3           3
    1    Age, years  64.0 ± 4.0  74.0 ± 4.0  0.038  Student t
    """
    frame = frame.reset_index(drop=True)
    groups = _group_names(frame, by)
    names = list(variables) if variables is not None else _present(frame, by)
    kinds = {name: kind_of(frame, name) for name in names}
    described = pd.DataFrame({by: frame[by].map(_plain)})
    for name in names:
        described[name] = _prepared(frame, name, kinds[name])
    layout = _layout(
        described, by, [name for name in names if described[name].notna().any()], kinds
    )
    rows = [{"label": "Participants", **{g: str((described[by] == g).sum()) for g in groups}}]
    for name in names:
        p, test = _test(described, by, name, kinds[name], welch)
        first = {"p": _format_p(p), "test": test, "smd": _smd(layout, name) if test else ""}
        for level in _shown_levels(name, kinds[name], described[name]):
            cells = {group: _cell(layout, described, by, name, level, group) for group in groups}
            unknown = int(described[name].isna().sum())
            shown = level if kinds[name] == "category" else ""
            rows.append(
                {"variable": name, "level": shown, "label": _row_label(name, level), **cells}
                | {"missing": str(unknown)}
                | first
            )
            first = {}
    columns = ["variable", "level", "label", "missing", *groups, "p", "test"]
    return pd.DataFrame(rows, columns=[*columns, "smd"] if smd else columns).fillna("")


def contingency_test(counts: npt.ArrayLike) -> tuple[float, str]:
    """Test whether groups differ in a category, from counts of patients (groups, levels) alone.

    Returns:
        p and the name of the test: Pearson's chi-square without continuity correction, or
        Fisher's exact for a 2 × 2 table with an expected count below 5. NaN and no name where all
        patients are alike or a group is empty.

    The 115 of 606 and 169 of 608 smokers of the study's Table 2:

    >>> p, test = contingency_test([[115, 491], [169, 439]])
    >>> f"{p:.5f} {test}"
    '0.00028 chi-square'
    """
    from scipy.stats import chi2_contingency, fisher_exact

    table = np.asarray(counts, dtype=np.int64)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return float("nan"), ""
    result = chi2_contingency(table, correction=False)
    if table.shape == (2, 2) and result.expected_freq.min() < MIN_EXPECTED:
        return float(fisher_exact(table).pvalue), "Fisher exact"
    return float(result.pvalue), "chi-square"


def _present(frame: pd.DataFrame, by: str) -> list[str]:
    names = (*CLINICAL, "frax_major", "frax_hip", "fracture")
    return [name for name in names if name in frame and name != by]


def _plain(value: object) -> str:
    """Return a group's name; 1.0, which pandas makes of 1 beside an empty cell, is 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _group_names(frame: pd.DataFrame, by: str) -> list[str]:
    if by not in frame:
        raise CaseRefused("cohort_invalid", f"the table has no column {by}")
    unknown = int(frame[by].isna().sum())
    names = sorted({_plain(value) for value in frame[by].dropna()})
    if unknown or len(names) != 2:
        raise CaseRefused(
            "cohort_invalid",
            f"{by} has {len(names)} groups and is unknown for {unknown} patients; there "
            "must be two groups and a group for everyone",
        )
    return names


def _prepared(frame: pd.DataFrame, name: str, kind: str) -> pd.Series[Any]:
    """Return numbers for a continuous variable, text or None for the others."""
    if name == "scan_year":
        return pd.to_datetime(frame["scan_date"]).dt.year.astype(float)
    if kind == "continuous":
        return frame[name].astype(float)
    values = frame[name].map({0: "no", 1: "yes"}) if kind == "binary" else frame[name].astype(str)
    return values.astype(object).where(frame[name].notna(), None)


def _shown_levels(name: str, kind: str, values: pd.Series[Any]) -> list[str]:
    if kind != "category":
        return ["yes" if kind == "binary" else ""]
    if name == "sex":
        return ["F"]
    return sorted(values.dropna().unique()) or [""]


def _row_label(name: str, level: str) -> str:
    if level in ("", "yes"):
        return label(name)
    return "Female" if name == "sex" else f"{label(name)}: {level}"


def _layout(
    described: pd.DataFrame, by: str, names: list[str], kinds: Mapping[str, str]
) -> pd.DataFrame:
    """Return tableone's table of the variables that anyone has, indexed by variable and level."""
    from tableone import TableOne

    if not names:
        return pd.DataFrame()
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # A group in which nobody's value is known has no mean: shown as not known, not warned of.
        for message in ("Mean of empty slice", "Degrees of freedom <= 0", "All-NaN slice"):
            warnings.filterwarnings("ignore", message, RuntimeWarning)
        made = TableOne(
            described,
            columns=names,
            categorical=[name for name in names if kinds[name] != "continuous"],
            continuous=[name for name in names if kinds[name] == "continuous"],
            groupby=by,
            smd=True,
            include_null=False,
            overall=False,
            label_suffix=False,
        )
    table: pd.DataFrame = made.tableone.droplevel(0, axis=1)
    return table


def _cell(
    layout: pd.DataFrame, described: pd.DataFrame, by: str, name: str, level: str, group: str
) -> str:
    known = described.loc[described[by] == group, name].notna().any()
    if not known:
        return "not known"
    if (name, level) not in layout.index:
        return "0 (0.0)"
    cell = str(layout.loc[(name, level), group])
    return re.sub(r"^(\S+) \((\S+)\)$", r"\1 ± \2", cell) if level == "" else cell


def _smd(layout: pd.DataFrame, name: str) -> str:
    column = next(column for column in layout.columns if column.startswith("SMD"))
    value = str(layout.loc[[name], column].iloc[0])
    return "" if value in ("nan", "inf", "-inf") else value


def _test(described: pd.DataFrame, by: str, name: str, kind: str, welch: bool) -> tuple[float, str]:
    from scipy.stats import ttest_ind

    known = described[[by, name]].dropna()
    if kind != "continuous":
        counts = pd.crosstab(known[by], known[name])
        return contingency_test(counts) if len(counts) == 2 else (float("nan"), "")
    groups = [values.to_numpy(np.float64) for _, values in known.groupby(by)[name]]
    if len(groups) < 2 or min(g.size for g in groups) < 2 or max(np.ptp(g) for g in groups) == 0:
        return float("nan"), ""
    result = ttest_ind(*groups, equal_var=not welch)
    return float(result.pvalue), "Welch t" if welch else "Student t"


def _format_p(p: float) -> str:
    if np.isnan(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
