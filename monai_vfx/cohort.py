"""A table of patients → checked cases, and the folds they fall into."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from monai_vfx.errors import CaseRefused, SettingError

REQUIRED_COLUMNS = ("case", "image", "mask", "fracture")
LISTED_FAULTS = 50
"""At most this many bad cells are named in one message; the rest are counted."""


class CohortItem(TypedDict):
    """One patient as the bundle's datasets take it.

    ``image`` and ``mask`` are absolute paths, ``label`` is 1 for a fracture within five years,
    ``pair`` names a matched pair (the case itself where there is none).
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
        path: CSV with the columns ``case``, ``image``, ``mask``, ``fracture`` (0 or 1); optional
            ``pair`` (matched pairs stay in one fold) and ``simulated`` (0 or 1). Relative paths
            start at the table's folder.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell by row, column, value and rule.
    """
    path = Path(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in REQUIRED_COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise CaseRefused("cohort_invalid", f"columns are missing: {', '.join(missing)}")
        rows = list(reader)
    faults: list[str] = []
    items = [_item(row, number, path.parent, faults) for number, row in enumerate(rows, start=2)]
    seen: dict[str, int] = {}
    for number, item in enumerate(items, start=2):
        if item["case"] in seen:
            faults.append(f"row {number}, case: also in row {seen[item['case']]}, must be unique")
        seen.setdefault(item["case"], number)
    if not rows:
        faults.append("the table has no rows")
    if faults:
        more = f" and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
        raise CaseRefused("cohort_invalid", "; ".join(faults[:LISTED_FAULTS]) + more)
    return items


def _item(row: dict[str, str], number: int, folder: Path, faults: list[str]) -> CohortItem:
    """Return one row as an item, and note what is wrong in it."""
    case = (row["case"] or "").strip()
    if not case or "/" in case or case.startswith("."):
        faults.append(f"row {number}, case: {case!r}, must be a name that can serve as a folder's")
    paths = {}
    for column in ("image", "mask"):
        value = (row[column] or "").strip()
        paths[column] = str((folder / value).resolve())
        if not value or not (folder / value).exists():
            faults.append(f"row {number}, {column}: {value!r}, must be a path that exists")
    for column in ("fracture", "simulated"):
        value = (row.get(column) or "").strip()
        if value not in ("0", "1") and not (column == "simulated" and value == ""):
            faults.append(f"row {number}, {column}: {value!r}, must be 0 or 1")
    return CohortItem(
        case=case,
        image=paths["image"],
        mask=paths["mask"],
        label=int((row["fracture"] or "").strip() == "1"),
        simulated=(row.get("simulated") or "").strip() == "1",
        pair=(row.get("pair") or "").strip() or case,
    )


def split_folds(
    items: Sequence[CohortItem], folds: int, seed: int = 0
) -> list[tuple[list[CohortItem], list[CohortItem]]]:
    """Split into stratified folds; matched pairs and patients stay whole.

    Args:
        items: the patients.
        folds: number of folds, at least 2.
        seed: of the shuffle.

    Returns:
        (training, validation) items of each fold.

    Raises:
        SettingError: when a class has fewer patients than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array([item["label"] for item in items])
    groups = np.array([item["pair"] for item in items])
    fewest = min(int((labels == value).sum()) for value in (0, 1))
    if folds < 2 or fewest < folds:
        raise SettingError(
            f"folds ({folds}) must be at least 2 and at most the smaller class ({fewest} patients)"
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    return [
        ([items[n] for n in train], [items[n] for n in held_out])
        for train, held_out in splitter.split(np.zeros(len(items)), labels, groups)
    ]
