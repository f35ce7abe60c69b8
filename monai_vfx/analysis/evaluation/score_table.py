"""Tables of scores: read, and checked so that every bad cell is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.estimates import Floats
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.tables import Fault, read_table, refuse_faults

if TYPE_CHECKING:
    import pandas as pd

MISSING = ("", "NA", "NaN", "nan", "None", "<NA>")
"""Cells that hold nothing, pandas' own missing values among them."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table play which part; see ``evaluate_scores``."""

    label: str
    scores: tuple[str, ...]
    risk_scores: tuple[str, ...] = ()
    time: str | None = None
    event: str | None = None
    subgroups: tuple[str, ...] = ()
    adjust_for: tuple[str, ...] = ()

    def check(self, present: Sequence[str]) -> None:
        """Check that the parts fit together and that the table has them."""
        named = [self.label, *self.scores, *self.subgroups, *self.adjust_for]
        named += [name for name in (self.time, self.event) if name is not None]
        missing = sorted({name for name in named if name not in present})
        if missing:
            raise SettingError(
                f"columns are missing: {', '.join(missing)}; there are: {', '.join(present)}"
            )
        if not self.scores:
            raise SettingError("scores is empty; name at least one column")
        if len(set(self.scores)) < len(self.scores) or self.label in self.scores:
            raise SettingError("each score must be named once, and the label is none")
        strangers = [name for name in self.risk_scores if name not in self.scores]
        if strangers:
            raise SettingError(f"risk_scores must be among the scores: {', '.join(strangers)}")
        if (self.time is None) != (self.event is None):
            raise SettingError("time and event must be given together")


def read_score_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV (UTF-8, commas) as text; the index is the row number as a spreadsheet counts.

    Empty lines are left out.

    Raises:
        FaultyTable: it cannot be read, has no rows, a column twice, or a row with more or fewer
            cells than the header.
    """
    import pandas as pd

    table = read_table(path)
    table.refuse()
    cells = [[cell.strip() for cell in row] for row in table.cells]
    return pd.DataFrame(cells, columns=table.header, index=table.numbers, dtype=object)


def check_table(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return the columns that matter as numbers (text stays text in subgroups and covariates).

    Missing scores, subgroups and covariates are NaN or None. ``patient_id``, ``pair_id`` and
    ``fold`` are kept where the table has them.

    Args:
        frame: one row a patient; cells may be numbers or text that reads as numbers.
        columns: their parts.

    Raises:
        SettingError: as :meth:`Columns.check`.
        FaultyTable: naming every bad cell by row (of the index), column, value and rule.
        CaseRefused: ``cohort_invalid``, a score whose patients lack one of the outcomes.
    """
    import pandas as pd

    columns.check([str(name) for name in frame.columns])
    faults: list[Fault] = []
    checked: dict[str, object] = {}
    checked |= {
        name: _category(frame[name])
        for name in ("case_id", "patient_id", "pair_id", *columns.subgroups, *columns.adjust_for)
        if name in frame
    }
    if "fold" in frame:
        checked["fold"] = [fold_name(cell) for cell in frame["fold"]]
    for name in columns.scores:
        share = name in columns.risk_scores
        rule = "a risk in 0-1 (divide percent by 100) or empty" if share else "a number or empty"
        limits = (0.0, 1.0) if share else (-np.inf, np.inf)
        checked[name] = _numbers(frame[name], rule, faults, limits=limits, optional=True)
    checked[columns.label] = _numbers(frame[columns.label], "0 or 1", faults, among=(0, 1))
    if columns.time is not None and columns.event is not None:
        years = _numbers(frame[columns.time], "years of at least 0", faults, limits=(0.0, np.inf))
        checked[columns.time] = years
        rule = "0 (censored), 1 (fracture) or 2 (death)"
        checked[columns.event] = _numbers(frame[columns.event], rule, faults, among=(0, 1, 2))
    place = {row: number for number, row in enumerate(frame.index)}
    refuse_faults(sorted(faults, key=lambda fault: place[fault.row]))
    table = pd.DataFrame(checked, index=frame.index)
    _need_both_outcomes(table, columns)
    return table


def fold_name(cell: object) -> str:
    """Return a fold as text, the same for 3, 3.0 and "3"; empty where there is none."""
    text = str(cell).strip()
    return "" if text in MISSING else text.removesuffix(".0")


def _need_both_outcomes(table: pd.DataFrame, columns: Columns) -> None:
    outcome = table[columns.label].to_numpy()
    faults = []
    for name in columns.scores:
        there = table[name].notna().to_numpy()
        n, events = int(there.sum()), int(outcome[there].sum())
        if not 0 < events < n:
            faults.append(f"{name}: {events} fractures among {n} patients with this score")
    if faults:
        raise CaseRefused("cohort_invalid", "; ".join(faults), "Both outcomes must occur.")


def _number(cell: object) -> float | None:
    """Return a cell as a number, NaN where it is empty, None where it is neither."""
    if str(cell).strip() in MISSING:
        return np.nan
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _numbers(
    column: pd.Series,
    rule: str,
    faults: list[Fault],
    *,
    limits: tuple[float, float] = (-np.inf, np.inf),
    among: tuple[int, ...] | None = None,
    optional: bool = False,
) -> Floats:
    """Return a column as numbers and note each cell that breaks the rule."""
    found = np.full(len(column), np.nan)
    for position, (row, cell) in enumerate(column.items()):
        value = _number(cell)
        empty = value is not None and np.isnan(value)
        if value is None or np.isinf(value):
            good = False
        elif empty:
            good = optional
        else:
            good = value in among if among is not None else limits[0] <= value <= limits[1]
        if good and value is not None:
            found[position] = value
        else:
            must = f"{'empty, ' if empty else ''}must be {rule}"
            shown = "" if empty else str(cell)
            faults.append(Fault(cast(int, row), str(column.name), shown, must))
    return found


def _category(column: pd.Series) -> npt.NDArray[np.float64] | npt.NDArray[np.object_]:
    """Return a column as numbers where every entry is one, else as text with None for missing."""
    numbers = [_number(cell) for cell in column]
    if all(number is not None for number in numbers):
        return np.array(numbers, dtype=np.float64)
    empty = [number is not None and np.isnan(number) for number in numbers]
    return np.array(
        [None if gone else str(cell) for gone, cell in zip(empty, column, strict=True)], object
    )
