"""Tables of heights, from a reader or from masks: read, checked, written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.morphometry.ratios import HEIGHTS
from monai_vfx.core.cells import Value, columns_of
from monai_vfx.core.schemas import schema
from monai_vfx.core.tables import Fault, read_table

_OF_A_CASE = ("sex", "fracture", "simulated")  # the same in all rows of a case


COLUMNS = columns_of("vertebral_heights")
"""Name → column of a table of heights, in the schema's order."""


def read_heights(path: str | Path) -> pd.DataFrame:
    """Read and check a table of heights.

    Args:
        path: CSV (``data_schemas/vertebral_heights.schema.json``).

    Returns:
        The known columns, in the schema's order: ``case_id``, ``level``, text; heights in mm,
        float64 with NaN where not measured; and, where the table has them, ``reader``, ``sex``,
        text or NaN, ``fracture``, ``simulated``, float64 with NaN.

    Raises:
        FaultyTable: ``cohort_invalid``, naming every bad cell by row, column, value and rule.
    """
    table = read_table(path)
    table.check_header(COLUMNS, schema("vertebral_heights")["required"])
    columns = table.check(COLUMNS)
    table.faults += _repeated(table.numbers, columns)
    table.faults += _contradictions(table.numbers, columns)
    table.refuse()
    frame = pd.DataFrame(columns)[[name for name in COLUMNS if name in columns]]
    for name in columns:
        if COLUMNS[name].kind in ("continuous", "binary"):
            frame[name] = frame[name].astype(np.float64)
    return frame


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
    """Yield a second reader, and rows of a case that contradict each other about the patient."""
    for name in ("reader", *_OF_A_CASE):
        if name not in columns or "case_id" not in columns:
            continue
        known: dict[Value, tuple[int, Value]] = {}
        for number, case, value in zip(numbers, columns["case_id"], columns[name], strict=True):
            if value is None or (case is None and name != "reader"):
                continue
            key = "reader" if name == "reader" else case
            row, earlier = known.setdefault(key, (number, value))
            if value != earlier:
                what = "one patient, two values"
                if name == "reader":
                    what = "one reader a table, give the other's with --second"
                yield Fault(number, name, str(value), f"contradicts row {row} ({earlier}): {what}")


def write_heights(frame: pd.DataFrame, path: Path) -> None:
    """Write a table of heights so that :func:`read_heights` gives it back, to 0.01 mm."""
    rounded = frame.copy()
    rounded[list(HEIGHTS)] = rounded[list(HEIGHTS)].round(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded.to_csv(path, index=False, lineterminator="\n")
