"""The rows of a table that training needs: checked cases, and the folds they fall into."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.results import check_case_name
from monai_vfx.core.tables import Fault, path_exists, read_sheet, refuse_faults

REQUIRED_COLUMNS = ("case_id", "image", "fracture")
FILLED_TABLE = "cohort.csv"
"""Name of a table whose missing masks were made; beside it lies its record as JSON."""


class CohortItem(TypedDict):
    """One scan as the bundle's datasets take it.

    ``image`` and ``mask`` are absolute paths (``mask`` is empty where the table names none),
    ``label`` is 1 for a fracture within five years,
    ``pair_id`` names the group that stays in one fold: all scans that a patient or a matched pair
    ties together, directly or through others. It is the ``case_id`` of the group's first row.
    ``fold`` is the cross-validation fold that the table gives, from 0, or None.
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
            ``series_uid``, which a manifest of the check may hold, must be empty: no series is
            chosen by a table here.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell by row, column, value and rule.
    """
    path = Path(path)
    faults: list[Fault] = []
    rows = _rows(path, faults)
    items = [_item(row, number, path.parent, faults) for number, row in rows]
    seen: dict[str, int] = {}
    for (number, _), item in zip(rows, items, strict=True):
        if item["case_id"] in seen:
            rule = f"also in row {seen[item['case_id']]}, must be unique"
            faults.append(Fault(number, "case_id", "", rule))
        seen.setdefault(item["case_id"], number)
    refuse_faults(faults)
    for item, group in zip(items, tied_groups([row for _, row in rows]), strict=True):
        item["pair_id"] = items[group]["case_id"]
    return items


def _rows(path: Path, faults: list[Fault]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their numbers, counted as a spreadsheet does; note odd ones."""
    sheet = read_sheet(path)
    missing = [name for name in REQUIRED_COLUMNS if name not in sheet.header]
    if missing:
        found = [fault.rule for fault in sheet.faults]
        if sheet.header or not found:
            found.insert(0, f"columns are missing: {', '.join(missing)}")
        raise CaseRefused("cohort_invalid", "; ".join(found))
    faults += sheet.faults
    return [
        (number, {name: cell.strip() for name, cell in zip(sheet.header, cells, strict=True)})
        for number, cells in zip(sheet.numbers, sheet.cells, strict=True)
    ]


def _item(row: dict[str, str], number: int, folder: Path, faults: list[Fault]) -> CohortItem:
    """Return one row as an item, a group of its own, and note what is wrong in it."""
    case = row["case_id"]
    try:
        check_case_name(case)
    except SettingError:
        # An empty name is shown as such.
        rule = f"{case!r}, must be a name that can serve as a folder's"
        faults.append(Fault(number, "case_id", "", rule))
    paths = {}
    for column in ("image", "mask"):
        value = row.get(column, "")
        if column == "mask" and not value:
            paths[column] = ""
            continue
        paths[column] = str((folder / value).resolve())
        if not value or not path_exists(folder / value):
            faults.append(Fault(number, column, "", f"{value!r}, must be a path that exists"))
    for column in ("fracture", "simulated"):
        value = row.get(column, "")
        if value not in ("0", "1") and not (column == "simulated" and value == ""):
            faults.append(Fault(number, column, "", f"{value!r}, must be 0 or 1"))
    if row.get("series_uid"):  # what the check may have judged is not what would be trained on
        rule = "must be empty: of an image the series that suits best is taken; name its own folder"
        faults.append(Fault(number, "series_uid", "", rule))
    fold = row.get("fold", "")
    if fold and not (fold.isascii() and fold.isdecimal()):
        faults.append(Fault(number, "fold", fold, "must be a whole number from 0"))
        fold = ""
    return CohortItem(
        case_id=case,
        image=paths["image"],
        mask=paths["mask"],
        label=int(row["fracture"] == "1"),
        simulated=row.get("simulated") == "1",
        pair_id=case,
        fold=int(fold) if fold else None,
    )


def write_filled_record(filled: Path, table: Path, facts: Json) -> None:
    """Note which table a completed one comes from.

    Args:
        filled: the table whose missing masks were made, as written.
        table: the one that was given.
        facts: further plain values for the record.
    """
    digests = {"table_sha256": table_sha256(table), "filled_sha256": _sha256(filled)}
    write_json(filled.with_suffix(".json"), {**digests, **facts})


def table_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a table; of one whose masks were made, that of the table given."""
    path = Path(path)
    own = _sha256(path)
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return str(record["table_sha256"]) if record["filled_sha256"] == own else own
    except (OSError, ValueError, KeyError, TypeError):
        return own


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tied_groups(rows: list[dict[str, str]]) -> list[int]:
    """Return for each row the first row that patients and pairs tie it to, by however many steps.

    Args:
        rows: each with ``patient_id`` and ``pair_id``, empty or absent where there is none.

    >>> rows = [{"patient_id": "a"}, {"patient_id": "b", "pair_id": "p"}, {"patient_id": "a",
    "pair_id": "p"}]
    >>> tied_groups(rows)
    [0, 0, 0]
    """
    first = list(range(len(rows)))
    for column in ("patient_id", "pair_id"):
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
    """Split into stratified folds; items that share ``pair_id`` stay in one fold.

    Two scans of one patient do so where the table has a column ``patient_id`` that says so; without
    it every row counts as a patient of its own. A table whose rows all have a ``fold`` is split
    along it, whatever the seed.

    Args:
        items: of :func:`read_cohort`, in which ``pair_id`` ties patients and matched pairs
        together.
        folds: number of folds, at least 2.
        seed: of the shuffle.

    Returns:
        (training, validation) items of each fold.

    Raises:
        SettingError: when a class has fewer groups than there are folds; when the table's own
            folds are not ``folds`` in number, not given for every row, or tear a group apart.
    """
    given = [item["fold"] for item in items if item.get("fold") is not None]
    if given:
        return _given_folds(items, folds)
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array([item["label"] for item in items])
    groups = np.array([item["pair_id"] for item in items])
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


def _given_folds(
    items: Sequence[CohortItem], folds: int
) -> list[tuple[list[CohortItem], list[CohortItem]]]:
    """Split along the folds that the table gives."""
    without = sum(item["fold"] is None for item in items)
    if without:
        raise SettingError(
            f"fold: {without} of {len(items)} rows have none; fill the column or leave it out"
        )
    numbers = {item["fold"] for item in items}
    if numbers != {*range(folds)}:
        raise SettingError(
            f"folds ({folds}) does not match the table's column fold, which holds "
            f"{', '.join(str(number) for number in sorted(numbers, key=str))}"
        )
    of_group: defaultdict[str, set[int | None]] = defaultdict(set)
    for item in items:
        of_group[item["pair_id"]].add(item["fold"])
    torn = [group for group, where in of_group.items() if len(where) > 1]
    if torn:
        raise SettingError(
            f"fold: {len(torn)} groups of one patient or matched pair lie in several folds, "
            f"among them that of case {torn[0]}"
        )
    return [
        (
            [item for item in items if item["fold"] != number],
            [item for item in items if item["fold"] == number],
        )
        for number in range(folds)
    ]
