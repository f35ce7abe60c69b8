"""Rules across cells: duplicates, and contradictions within a row, a patient or a column."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from datetime import timedelta

import numpy as np
import pandas as pd

from monai_vfx.analysis.cohort.variables import COLUMNS
from monai_vfx.core.cells import today
from monai_vfx.core.tables import Fault

BMI_TOLERANCE = 1.0
"""kg/m²: bmi and weight / height² may differ by as much."""
HEIGHT_TOLERANCE = 15.0
"""cm: the heights of one patient may differ by as much (fractures cost a few)."""
HORIZON_YEARS = 5.0
"""A fracture counts within as many years of the CT."""
DAYS_A_YEAR = 365.25

_MEASURED = ("continuous", "date", "path")


def find_contradictions(raw: pd.DataFrame, values: pd.DataFrame) -> Iterator[Fault]:
    """Name what several cells contradict.

    ``raw`` holds the cells as they stand, its index the spreadsheet's rows; ``values`` what they
    mean, None where a cell is empty or at fault.
    """
    yield from _duplicates(raw, values)
    yield from _row_contradictions(raw, values)
    yield from _patient_contradictions(raw, values)
    yield from _column_contradictions(values)


def _duplicates(raw: pd.DataFrame, values: pd.DataFrame) -> Iterator[Fault]:
    yield from _repeats(values, raw, "case_id", "must be unique")
    if "case_id" in values:
        folded = values["case_id"].dropna().astype(str)
        alike = folded.str.casefold()
        for row in folded.index[alike.duplicated() & ~folded.duplicated()]:
            other = alike.index[alike == alike[row]][0]
            rule = f"differs from row {other} only in capital letters: one folder on some systems"
            yield _fault(raw, row, "case_id", rule)
    for name in ("image", "mask"):
        yield from _repeats(values, raw, name, "each CT needs its own")
    if {"image", "mask"} <= {*values}:
        for row in _rows_where(values["image"].notna() & (values["image"] == values["mask"])):
            yield _fault(raw, row, "mask", "is the same file as the image")
    yield from _repeated_rows(raw, values)


def _repeats(values: pd.DataFrame, raw: pd.DataFrame, name: str, rule: str) -> Iterator[Fault]:
    if name not in values:
        return
    known = values[name].dropna()
    first = dict(zip(known[::-1], known.index[::-1], strict=True))
    for row, value in known[known.duplicated()].items():
        yield _fault(raw, row, name, f"also in row {first[value]}, {rule}")


def _repeated_rows(raw: pd.DataFrame, values: pd.DataFrame) -> Iterator[Fault]:
    """Name rows that repeat another in all but their names, where three measurements agree."""
    measured = [n for n in raw.columns if n in COLUMNS and COLUMNS[n].kind in _MEASURED]
    rest = raw.drop(columns=["case_id", "pair_id", "fold"], errors="ignore")
    rest = rest[values[measured].notna().sum(axis=1) >= 3]
    first: dict[tuple[str, ...], Hashable] = {}
    for row, cells in rest[rest.duplicated(keep=False)].iterrows():
        key = tuple(cells)
        if key in first:
            rule = f"the same as row {first[key]} in all but the case's name"
            yield Fault(int(str(row)), "", "", rule)
        first.setdefault(key, row)


def _row_contradictions(raw: pd.DataFrame, values: pd.DataFrame) -> Iterator[Fault]:
    def number(name: str) -> pd.Series[float]:
        if name not in values:
            return pd.Series(np.nan, index=values.index)
        return pd.to_numeric(values[name], errors="coerce").astype(np.float64)

    fracture, years = number("fracture") == 1, number("follow_up_years")
    height, weight = number("height_cm"), number("weight_kg")
    computed = weight / (height / 100) ** 2
    for row in _rows_where((number("bmi") - computed).abs() > BMI_TOLERANCE):
        rule = (
            f"contradicts weight_kg {weight[row]:g} and height_cm {height[row]:g}, which give "
            f"{computed[row]:.1f}: must agree within {BMI_TOLERANCE:g} kg/m²"
        )
        yield _fault(raw, row, "bmi", rule)
    low, high = COLUMNS["bmi"].low or 0.0, COLUMNS["bmi"].high or np.inf
    for name, broken, rule in (
        (
            "weight_kg",
            (computed < low) | (computed > high),
            f"gives a BMI outside {low:g} to {high:g} kg/m² with height_cm: check both (units?)",
        ),
        (
            "follow_up_years",
            fracture & (years > HORIZON_YEARS),
            f"contradicts fracture 1: a fracture counts within {HORIZON_YEARS:g} years (months?)",
        ),
        ("death", fracture & (number("death") == 1), "contradicts fracture 1: follow-up ended"),
        (
            "traumatic_fracture",
            fracture & (number("traumatic_fracture") == 1),
            "contradicts fracture 1: a fracture by trauma is no event",
        ),
        (
            "frax_hip",
            number("frax_hip") > number("frax_major"),
            "contradicts frax_major, which includes the hip and cannot be lower",
        ),
        (
            "follow_up_years",
            _ends_in_future(values, years),
            "contradicts scan_date: this follow-up would end in the future",
        ),
    ):
        for row in _rows_where(broken):
            yield _fault(raw, row, name, rule)


def _ends_in_future(values: pd.DataFrame, years: pd.Series[float]) -> pd.Series[bool]:
    if "scan_date" not in values:
        return pd.Series(False, index=values.index)
    limit = pd.Timestamp(today() + timedelta(days=37))  # a tenth of a year for rounding
    end = _day_number(values["scan_date"]) + years * DAYS_A_YEAR
    return end > limit.toordinal()


def _day_number(dates: pd.Series[str]) -> pd.Series[float]:
    return dates.map(lambda day: day.toordinal(), na_action="ignore").astype(np.float64)


def _patient_contradictions(raw: pd.DataFrame, values: pd.DataFrame) -> Iterator[Fault]:
    """Name rows that make one patient two: another sex, height or year of birth."""
    if "patient_id" not in values:
        return
    several = values[values["patient_id"].notna() & values["patient_id"].duplicated(keep=False)]
    for _, rows in several.groupby("patient_id", sort=False):
        if "sex" in rows:
            sexes = rows["sex"].dropna()
            for row in sexes.index[sexes != sexes.iloc[0]] if len(sexes) else ():
                rule = f"contradicts row {sexes.index[0]}: one patient, two sexes"
                yield _fault(raw, row, "sex", rule)
        if "height_cm" in rows:
            heights = pd.to_numeric(rows["height_cm"]).astype(np.float64).dropna()
            for row in heights.index[(heights - heights.iloc[:1].sum()).abs() > HEIGHT_TOLERANCE]:
                rule = f"contradicts row {heights.index[0]}: one patient, two heights"
                yield _fault(raw, row, "height_cm", rule)
        if {"age", "scan_date"} <= {*rows}:
            age = pd.to_numeric(rows["age"]).astype(np.float64)
            births = (_day_number(rows["scan_date"]) / DAYS_A_YEAR - age).dropna()
            if len(births) > 1 and births.max() - births.min() > 1.0:
                row = (births - births.iloc[0]).abs().idxmax()
                rule = (
                    f"contradicts row {births.index[0]}: with the dates of the CTs, one patient's "
                    "years of birth differ by more than 1"
                )
                yield _fault(raw, row, "age", rule)


def _column_contradictions(values: pd.DataFrame) -> Iterator[Fault]:
    """Name a wrong unit that only the whole column reveals."""
    if "frax_major" in values:
        known = pd.to_numeric(values["frax_major"]).dropna()
        if len(known) >= 20 and known.max() <= 1.0:
            rule = "all values are at most 1: fractions? percent is needed"
            yield Fault(1, "frax_major", "", rule)


def _fault(raw: pd.DataFrame, row: Hashable, column: str, rule: str) -> Fault:
    return Fault(int(str(row)), column, str(raw.at[row, column]), rule)


def _rows_where(mask: pd.Series[bool]) -> list[int]:
    return [int(row) for row in mask.index[mask.to_numpy(dtype=bool)]]
