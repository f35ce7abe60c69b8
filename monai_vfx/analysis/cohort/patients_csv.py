"""A patient table: checked whole, every fault named, then typed columns.

Rules for one cell are in :mod:`monai_vfx.core.cells`, those across cells in
:mod:`monai_vfx.analysis.cohort.contradictions`; here are columns, paths and types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.cohort.contradictions import find_contradictions
from monai_vfx.analysis.cohort.variables import COLUMNS
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import write_frame
from monai_vfx.core.tables import Fault, Table, path_exists, read_table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def find_faults(
    path: str | Path, need: Sequence[str] = (), check_paths: bool = False
) -> list[Fault]:
    """Name everything that is wrong with a patient table.

    Args:
        path: CSV in UTF-8, separated by commas, one row a CT (``data_schemas/cohort.schema.json``).
        need: further columns that the table must have; with ``image`` or ``mask`` among them,
            each row must name a path that exists. Other cells may be empty.
        check_paths: whether the images and masks that are named must exist, needed or not.

    Returns:
        All faults by row and column; empty for a good table. The header is row 1. Values of the
        column ``patient_id`` are not shown.
    """
    return _check(Path(path), need, check_paths)[0].faults


def read_patients(
    path: str | Path, need: Sequence[str] = (), check_paths: bool = False
) -> pd.DataFrame:
    """Read a patient table whose every cell keeps the rules.

    Args:
        path: as :func:`find_faults` takes it; ``need`` and ``check_paths`` likewise.
        need: columns that the caller uses.
        check_paths: whether the images and masks that are named must exist.

    Returns:
        One row a CT in the table's order, with the columns of the table. Numbers and 0/1 are
        float64 with NaN where the cell is empty (``fracture``, never empty, is int64),
        ``scan_date`` is datetime64, text is str or NaN. ``patient_id`` is there always: where it
        is empty it is the ``case_id``. ``image`` and ``mask`` are absolute. Columns that the
        schema does not know hold their text, NaN where empty.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell by row, column, value and rule.
    """
    path = Path(path)
    table, values = _check(path, need, check_paths)
    table.refuse()
    return _typed(values.reset_index(drop=True), path.parent)


def write_patients(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a patient table so that :func:`read_patients` gives it back.

    Whole numbers are written without a decimal point, dates as YYYY-MM-DD; the same table gives
    the same bytes.
    """
    frame = frame.copy()
    for name in frame.columns:
        column = COLUMNS.get(name)
        if column and column.kind in ("binary", "whole"):
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
        elif column and column.kind == "date":
            frame[name] = pd.to_datetime(frame[name]).dt.strftime("%Y-%m-%d")
    write_frame(Path(path), frame)


def outcome_times(frame: pd.DataFrame) -> tuple[Floats, Ints]:
    """Return the time and kind of each row's end of follow-up, for analyses of time.

    An empty or absent ``death`` means that follow-up did not end by death.

    Returns:
        (n,) years from the CT, NaN where the follow-up is not known; (n,) events: 0 censored,
        1 fracture, 2 death without fracture.

    >>> table = pd.DataFrame({"fracture": [1, 0, 0], "death": [0, 1, None],
    ...                       "follow_up_years": [2.0, 3.5, 7.0]})
    >>> outcome_times(table)
    (array([2. , 3.5, 7. ]), array([1, 2, 0]))
    """
    if "follow_up_years" not in frame:
        raise SettingError("times need the column follow_up_years, which the table does not have")
    time = frame["follow_up_years"].to_numpy(np.float64)
    fracture = frame["fracture"].to_numpy() == 1
    died = frame["death"].to_numpy() == 1 if "death" in frame else np.zeros(len(frame), dtype=bool)
    return time, np.where(fracture, 1, np.where(died, 2, 0)).astype(np.int64)


def _check(path: Path, need: Sequence[str], check_paths: bool) -> tuple[Table, pd.DataFrame]:
    """Return a table with all its faults noted, and its values; None where empty or wrong."""
    table = read_table(path)
    required = [name for name, column in COLUMNS.items() if column.required]
    table.check_header(COLUMNS, [*required, *need])
    raw = pd.DataFrame(table.cells, columns=table.header, index=table.numbers, dtype=object)
    values = raw.where(raw.apply(lambda column: column.str.strip() != ""), None)
    for name, checked in table.check(COLUMNS).items():
        values[name] = pd.Series(checked, index=raw.index, dtype=object)
    for name in ("image", "mask"):
        if name in raw and (check_paths or name in need):
            table.faults += _path_faults(raw[name], path.parent, required=name in need)
    table.faults += find_contradictions(raw, values)
    table.sort_faults()
    return table, values


def _path_faults(raw: pd.Series[str], folder: Path, required: bool) -> Iterator[Fault]:
    name = str(raw.name)
    for row, cell in raw.items():
        text = cell.strip()
        if not text and required:
            yield Fault(int(str(row)), name, "", "must not be empty")
        elif text and not path_exists(folder / text):
            hint = " (write / between folders)" if "\\" in text else ""
            yield Fault(int(str(row)), name, cell, f"must be a path that exists{hint}")


def _typed(values: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Turn values into columns of their types."""
    columns: dict[str, object] = {}
    for name in values.columns:
        column = COLUMNS.get(name)
        cells = values[name]
        if column is None or column.kind in ("text", "category"):
            columns[name] = cells.where(cells.notna(), np.nan)
        elif column.kind == "path":
            columns[name] = cells.map(lambda p: str((folder / p).resolve()), na_action="ignore")
            columns[name] = cells.where(cells.isna(), columns[name]).where(cells.notna(), np.nan)
        elif column.kind == "date":
            columns[name] = pd.to_datetime(cells)
        else:
            whole = column.kind == "binary" and column.required
            columns[name] = cells.astype(np.int64 if whole else np.float64)
        if name == "case_id" and "patient_id" not in values:
            columns["patient_id"] = cells
    frame = pd.DataFrame(columns)
    frame["patient_id"] = frame["patient_id"].where(frame["patient_id"].notna(), frame["case_id"])
    return frame
