"""The rows of a table that training needs: checked cases, and the folds they fall into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from monai_vfx.analysis.cohort.variables import COLUMNS
from monai_vfx.analysis.folds import assign_folds, check_folds
from monai_vfx.analysis.groups import tied_rows
from monai_vfx.core.arrays import Json
from monai_vfx.core.files import read_json, write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.tables import path_exists, read_table

FILLED_TABLE = "cohort.csv"
"""Name of a table whose missing masks were made; its record lies beside it as JSON."""
_REQUIRED = ("case_id", "image", "fracture")
_CHECKED = {name: COLUMNS[name] for name in ("case_id", "fracture", "simulated", "fold")}


class CohortItem(TypedDict):
    """One scan as the bundle's datasets take it.

    ``image`` and ``mask`` are absolute paths (``mask`` is empty where the table names none),
    ``label`` is 1 for a fracture within five years, ``pair_id`` names the group that stays in one
    fold: all scans that a patient or a matched pair ties together, directly or through others. It
    is the ``case_id`` of the group's first row. ``fold`` is the cross-validation fold that the
    table gives, from 0, or None.
    """

    case_id: str
    image: str
    mask: str
    label: int
    simulated: bool
    pair_id: str
    fold: int | None


def read_cohort(path: str | Path) -> list[CohortItem]:
    """Read and check a cohort table.

    Args:
        path: CSV in UTF-8, separated by commas, with the columns ``case_id``, ``image``,
            ``fracture`` (0 or 1); optional ``mask``, ``patient_id`` (scans of one patient stay in
            one fold), ``pair_id`` (so do matched pairs), ``fold`` (a whole number from 0: the fold
            itself) and ``simulated`` (0 or 1). Relative paths start at the table's folder. A
            ``series_uid``, which a manifest may hold, must be empty: no series is chosen by a table
            here.

    Raises:
        FaultyTable: ``cohort_invalid``, naming every bad cell by row, column, value and rule.
    """
    table = read_table(path)
    table.check_header((*_CHECKED, "image", "mask", "patient_id", "pair_id"), _REQUIRED)
    table.cells = [[cell.strip() for cell in cells] for cells in table.cells]
    values = table.check(_CHECKED)
    rows = list(table.rows())
    folder, seen = Path(path).parent, dict[str, int]()
    for number, row in rows:
        case = row.get("case_id", "")
        if seen.setdefault(case, number) != number:
            table.note(number, "case_id", case, f"also in row {seen[case]}, must be unique")
        for column in ("image", "mask"):
            value = row.get(column, "")
            if column in row and not value and column == "image":
                table.note(number, column, "", "must not be empty")
            elif value and not path_exists(folder / value):
                table.note(number, column, value, "must be a path that exists")
            row[column] = str((folder / value).resolve()) if value else ""
        if row.get("series_uid"):  # what the check may have judged is not what would be trained on
            rule = "must be empty: training takes the best series; name the series' own folder"
            table.note(number, "series_uid", "", rule)
    table.refuse()
    empty = [None] * len(rows)
    groups = tied_rows(len(rows), *([r.get(n) for _, r in rows] for n in ("patient_id", "pair_id")))
    return [
        CohortItem(
            case_id=row["case_id"],
            image=row["image"],
            mask=row["mask"],
            label=int(label == 1),
            simulated=simulated == 1,
            pair_id=rows[group][1]["case_id"],
            fold=int(fold) if isinstance(fold, int | float) else None,
        )
        for (_, row), label, simulated, fold, group in zip(
            rows,
            values["fracture"],
            values.get("simulated", empty),
            values.get("fold", empty),
            groups,
            strict=True,
        )
    ]


def write_filled_record(filled: Path, table: Path, facts: Json) -> None:
    """Note which table a completed one comes from, with further plain values."""
    digests = {"table_sha256": table_sha256(table), "filled_sha256": sha256_of(filled)}
    write_json(filled.with_suffix(".json"), {**digests, **facts})


def table_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a table; of one whose masks were made, that of the table given."""
    own = sha256_of(path)
    try:
        record = read_json(Path(path).with_suffix(".json"))
        return str(record["table_sha256"]) if record["filled_sha256"] == own else own
    except (OSError, ValueError, KeyError, TypeError):
        return own


def split_folds(
    items: Sequence[CohortItem], folds: int, seed: int = 0
) -> list[tuple[list[CohortItem], list[CohortItem]]]:
    """Split into stratified folds; items that share ``pair_id`` stay in one fold.

    Two scans of one patient do so where the table has a column ``patient_id``; without it every row
    counts as a patient of its own. A table whose rows all have a ``fold`` is split along it,
    whatever the seed.

    Returns:
        (training, validation) items of each fold.

    Raises:
        SettingError: when a class has fewer groups than there are folds; when the table's own
            folds are not ``folds`` in number, not given for every row, or tear a group apart.
    """
    groups = [item["pair_id"] for item in items]
    given = [np.nan if item.get("fold") is None else float(item["fold"] or 0) for item in items]
    if np.isnan(given).all():
        fold = assign_folds([item["label"] for item in items], groups, folds, seed)
    else:
        fold = check_folds(given, groups, folds)
    placed = list(zip(items, fold, strict=True))
    return [
        ([item for item, own in placed if own != k], [item for item, own in placed if own == k])
        for k in range(folds)
    ]
