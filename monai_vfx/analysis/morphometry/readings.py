"""A table of heights, from a reader or from masks: checked whole, every fault named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.cohort.cells import Value, check_cell
from monai_vfx.analysis.cohort.variables import Kind, Variable
from monai_vfx.analysis.morphometry.ratios import HEIGHTS
from monai_vfx.core.schemas import schema
from monai_vfx.core.tables import Fault, Sheet, read_sheet, refuse_faults

_SCHEMA = schema("vertebral_heights")
_OF_A_CASE = ("sex", "fracture", "simulated")  # the same in all rows of a case


def _variable(name: str) -> Variable:
    rule = _SCHEMA["properties"][name]
    values = tuple(value for value in rule.get("enum", ()) if value is not None)
    kind: Kind = "text"
    if values:
        kind = "binary" if values == (0, 1) else "category"
    elif "minimum" in rule:
        kind = "continuous"
    return Variable(
        name=name,
        title=rule["title"],
        unit=rule.get("x-unit"),
        kind=kind,
        low=rule.get("minimum"),
        high=rule.get("maximum"),
        categories=values if kind == "category" else (),
        required=name in ("case_id", "level"),
    )


COLUMNS: dict[str, Variable] = {name: _variable(name) for name in _SCHEMA["properties"]}
"""Name → column of a table of heights, in the schema's order."""


def read_heights(path: str | Path) -> pd.DataFrame:
    """Read a table of heights whose every cell keeps the rules.

    Args:
        path: CSV (``data_schemas/vertebral_heights.schema.json``).

    Returns:
        The known columns, in the table's order: ``case_id``, ``level``, text; heights in mm,
        float64
        with NaN where not measured; and, where the table has them, ``reader``, ``sex``, text or
        NaN, ``fracture``, ``simulated``, float64 with NaN.

    Raises:
        FaultyTable: ``cohort_invalid``, naming every bad cell by row, column, value and rule.
    """
    sheet = read_sheet(Path(path))
    faults = list(sheet.faults)
    if sheet.header:
        faults += _missing_columns(sheet)
    columns: dict[str, list[Value]] = {}
    for place, name in enumerate(sheet.header):
        if name in COLUMNS:
            columns[name] = []
            for number, cells in zip(sheet.numbers, sheet.cells, strict=True):
                value, rules = check_cell(COLUMNS[name], cells[place])
                columns[name].append(value)
                faults += [Fault(number, name, cells[place], rule) for rule in rules]
    faults += _repeated(sheet.numbers, columns)
    faults += _contradictions(sheet.numbers, columns)
    place_of = {name: place for place, name in enumerate(sheet.header)}
    faults.sort(key=lambda fault: (fault.row, place_of.get(fault.column, -1)))
    refuse_faults(faults)
    frame = pd.DataFrame(columns)[[name for name in COLUMNS if name in columns]]
    for name in columns:
        if COLUMNS[name].kind in ("continuous", "binary"):
            frame[name] = frame[name].astype(np.float64)
    return frame


def _missing_columns(sheet: Sheet) -> Iterator[Fault]:
    for name in _SCHEMA["required"]:
        if name not in sheet.header:
            yield Fault(1, name, "", "the column is missing")


def _repeated(numbers: list[int], columns: dict[str, list[Value]]) -> Iterator[Fault]:
    if not {"case_id", "level"} <= {*columns}:
        return
    first: dict[tuple[Value, Value], int] = {}
    for number, case, level in zip(numbers, columns["case_id"], columns["level"], strict=True):
        if case is None or level is None:
            continue
        if (case, level) in first:
            rule = f"the case has this level in row {first[case, level]} already"
            yield Fault(number, "level", str(level), rule)
        first.setdefault((case, level), number)


def _contradictions(numbers: list[int], columns: dict[str, list[Value]]) -> Iterator[Fault]:
    """Name a second reader, and rows of a case that say different things about the patient."""
    for name in ("reader", *_OF_A_CASE):
        if name not in columns or "case_id" not in columns:
            continue
        known: dict[Value, tuple[int, Value]] = {}
        for number, case, value in zip(numbers, columns["case_id"], columns[name], strict=True):
            key = None if name == "reader" else case
            if value is None or (key is None and name != "reader"):
                continue
            row, earlier = known.setdefault(key, (number, value))
            if value != earlier:
                rule = f"contradicts row {row} ({earlier}): " + (
                    "one reader a table, give the other's with --second"
                    if name == "reader"
                    else "one patient, two values"
                )
                yield Fault(number, name, str(value), rule)


def write_heights(frame: pd.DataFrame, path: Path) -> None:
    """Write a table of heights so that :func:`read_heights` gives it back, to 0.01 mm."""
    rounded = frame.copy()
    rounded[list(HEIGHTS)] = rounded[list(HEIGHTS)].round(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded.to_csv(path, index=False, lineterminator="\n")
