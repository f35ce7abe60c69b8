"""The rows of a table that training needs: checked cases, and the folds they fall into."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from monai_vfx.dicom.files import reason
from monai_vfx.errors import CaseRefused, SettingError
from monai_vfx.results import check_case_name

REQUIRED_COLUMNS = ("case", "image", "mask", "fracture")
LISTED_FAULTS = 50
"""At most this many bad cells are named in one message; the rest are counted."""
_OTHER_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'"}
_NOT_UTF8 = "the table is not in UTF-8: save as UTF-8"


class CohortItem(TypedDict):
    """One scan as the bundle's datasets take it.

    ``image`` and ``mask`` are absolute paths, ``label`` is 1 for a fracture within five years,
    ``pair`` names the group that stays in one fold: all scans that a patient or a matched pair
    ties together, directly or through others. It is the ``case`` of the group's first row.
    """

    case: str
    image: str
    mask: str
    label: int
    simulated: bool
    pair: str


def read_cohort(path: str | Path) -> list[CohortItem]:
    """Read and check a cohort table.

    Args:
        path: CSV in UTF-8, separated by commas, with the columns ``case``, ``image``, ``mask``,
            ``fracture`` (0 or 1); optional ``patient`` (scans of one patient stay in one fold),
            ``pair`` (so do matched pairs) and ``simulated`` (0 or 1). Relative paths start at
            the table's folder.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell by row, column, value and rule.
    """
    path = Path(path)
    faults: list[str] = []
    rows = _rows(path, faults)
    items = [_item(row, number, path.parent, faults) for number, row in rows]
    seen: dict[str, int] = {}
    for (number, _), item in zip(rows, items, strict=True):
        if item["case"] in seen:
            faults.append(f"row {number}, case: also in row {seen[item['case']]}, must be unique")
        seen.setdefault(item["case"], number)
    if not rows and not faults:
        faults.append("the table has no rows")
    if faults:
        more = f" and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
        raise CaseRefused("cohort_invalid", "; ".join(faults[:LISTED_FAULTS]) + more)
    for item, group in zip(items, _groups([row for _, row in rows]), strict=True):
        item["pair"] = items[group]["case"]
    return items


def _rows(path: Path, faults: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their numbers, counted as a spreadsheet does; note odd ones."""
    records = _records(path)
    header = [name.strip() for name in records[0]] if records else []
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        joined = ",".join(header)
        other = next((name for sign, name in _OTHER_DELIMITERS.items() if sign in joined), None)
        hint = f"; the table is separated by {other}, the rule is a comma" if other else ""
        raise CaseRefused("cohort_invalid", f"columns are missing: {', '.join(missing)}{hint}")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise CaseRefused("cohort_invalid", f"columns are there twice: {', '.join(twice)}")
    rows = []
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) < len(header) or any(cell.strip() for cell in record[len(header) :]):
            faults.append(f"row {number}: {len(record)} cells, the header has {len(header)}")
            continue
        rows.append((number, {n: c.strip() for n, c in zip(header, record, strict=False)}))
    return rows


def _records(path: Path) -> list[list[str]]:
    """Return the cells of every line of a CSV."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaseRefused("cohort_invalid", _NOT_UTF8) from error
    except OSError as error:
        raise CaseRefused(
            "cohort_invalid", f"the table cannot be read ({reason(error)})"
        ) from error
    if "\0" in text:  # UTF-16 without its mark
        raise CaseRefused("cohort_invalid", _NOT_UTF8)
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise CaseRefused("cohort_invalid", f"the table is no CSV ({error})") from error


def _item(row: dict[str, str], number: int, folder: Path, faults: list[str]) -> CohortItem:
    """Return one row as an item, a group of its own, and note what is wrong in it."""
    case = row["case"]
    try:
        check_case_name(case)
    except SettingError:
        faults.append(f"row {number}, case: {case!r}, must be a name that can serve as a folder's")
    paths = {}
    for column in ("image", "mask"):
        value = row[column]
        paths[column] = str((folder / value).resolve())
        if not value or not _exists(folder / value):
            faults.append(f"row {number}, {column}: {value!r}, must be a path that exists")
    for column in ("fracture", "simulated"):
        value = row.get(column, "")
        if value not in ("0", "1") and not (column == "simulated" and value == ""):
            faults.append(f"row {number}, {column}: {value!r}, must be 0 or 1")
    return CohortItem(
        case=case,
        image=paths["image"],
        mask=paths["mask"],
        label=int(row["fracture"] == "1"),
        simulated=row.get("simulated") == "1",
        pair=case,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long a name, or a folder that may not be entered
        return False


def _groups(rows: list[dict[str, str]]) -> list[int]:
    """Return for each row the first row that patients and pairs tie it to, by however many steps.

    >>> _groups([{"patient": "a"}, {"patient": "b", "pair": "p"}, {"patient": "a", "pair": "p"}])
    [0, 0, 0]
    """
    first = list(range(len(rows)))
    for column in ("patient", "pair"):
        of_name: dict[str, int] = {}
        for n, row in enumerate(rows):
            name = row.get(column, "")
            if name:
                one, other = first[of_name.setdefault(name, n)], first[n]
                if one != other:
                    low = min(one, other)
                    first = [low if group in (one, other) else group for group in first]
    return first


def split_folds(
    items: Sequence[CohortItem], folds: int, seed: int = 0
) -> list[tuple[list[CohortItem], list[CohortItem]]]:
    """Split into stratified folds; items that share ``pair`` stay in one fold.

    Two scans of one patient do so where the table has a column ``patient`` that says so; without
    it every row counts as a patient of its own.

    Args:
        items: of :func:`read_cohort`, in which ``pair`` ties patients and matched pairs together.
        folds: number of folds, at least 2.
        seed: of the shuffle.

    Returns:
        (training, validation) items of each fold.

    Raises:
        SettingError: when a class has fewer groups than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array([item["label"] for item in items])
    groups = np.array([item["pair"] for item in items])
    fewest = min(len(set(groups[labels == value])) for value in (0, 1))
    if folds < 2 or fewest < folds:
        raise SettingError(
            f"folds ({folds}) must be at least 2 and at most the smaller class ({fewest} patients)"
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    return [
        ([items[n] for n in train], [items[n] for n in held_out])
        for train, held_out in splitter.split(np.zeros(len(items)), labels, groups)
    ]
