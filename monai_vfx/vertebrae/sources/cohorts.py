"""Masks for the rows of a table that name none: made once, kept in a folder, used again.

Each such row gets a folder named by its case, with the mask, its picture and what it rests on. A
CT whose vertebrae cannot be named gets the file ``mask_refused.json`` in the mask's place; whoever
loads it is refused with the code it holds (:func:`monai_vfx.case.mask.load.load_masks`), so that
the case
is listed like every other refused one and the rest goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from monai_vfx.analysis.cohort.training_items import FILLED_TABLE, write_filled_record
from monai_vfx.case.case import check_case, load_case
from monai_vfx.case.mask.read import REFUSED_MASK
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import file_state
from monai_vfx.core.tables import read_sheet, write_sheet
from monai_vfx.vertebrae.sources.source import FACTS, MASK, PICTURE, MaskSource

_RECORD = "made.json"
_NO_FAULT_OF_THE_CT = ("weights_unreadable", "weights_mismatch")
_WORTH_ANOTHER_TRY = ("mask_not_made", "input_unreadable", "file_truncated")


def rows_without_mask(table: str | Path) -> int:
    """Count the rows of a table that name no mask; 0 for one that cannot be read."""
    return len(_missing(Path(table))[1]) if Path(table).is_file() else 0


def with_masks(
    table: str | Path,
    folder: str | Path,
    made_by: str = "auto",
    tell: Callable[[str], None] | None = None,
    weights: str | Path | None = None,
) -> Path:
    """Return a table whose every row names a mask; the same one where nothing is missing.

    Args:
        table: CSV with ``case_id`` and ``image``; what else it holds is taken over as it is. It
        must
            have been checked (:func:`monai_vfx.analysis.cohort.read_cohort` or ``read_patients``).
        folder: for the masks, a folder a case, and ``cohort.csv``, the completed table.
        made_by: ``auto``, ``totalsegmentator`` or ``spine-segment``.
        tell: called with a line about each mask.
        weights: folder with the vertebra segmentation's weights; those of the package by default.

    Raises:
        CaseRefused: ``weights_unreadable`` or ``weights_mismatch``: no mask at all can be made.
        MissingDependencyError: a tool is asked for and not installed.
    """
    table, folder = Path(table), Path(folder)
    header, missing = _missing(table)
    if not missing:
        return table
    sheet = read_sheet(table)
    columns = header if "mask" in header else [*header, "mask"]
    rows = [dict(zip(header, cells, strict=True)) for cells in sheet.cells]
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for row in rows:
        row["image"] = str((table.parent / row["image"].strip()).resolve())
        if row.get("mask", "").strip():
            row["mask"] = str((table.parent / row["mask"].strip()).resolve())
            continue
        done += 1
        case = row["case_id"].strip()
        made = _made_mask(Path(row["image"]), folder / case, made_by, weights)
        row["mask"] = str(made.resolve())
        if tell is not None:
            outcome = "refused" if made.name == REFUSED_MASK else "made"
            tell(f"mask {done} of {len(missing)}, case {case}: {outcome}")
    filled = folder / FILLED_TABLE
    write_sheet(filled, columns, rows)
    refused = sum(row["mask"].endswith(REFUSED_MASK) for row in rows)
    facts: Json = {"made_by": made_by, "made": len(missing) - refused, "refused": refused}
    write_filled_record(filled, table, facts)
    return filled


def _missing(table: Path) -> tuple[list[str], list[int]]:
    """Return the columns of a table and the rows without a mask."""
    sheet = read_sheet(table)
    if "image" not in sheet.header:
        return sheet.header, []
    if "mask" not in sheet.header:
        return sheet.header, list(range(len(sheet.cells)))
    place = sheet.header.index("mask")
    return sheet.header, [n for n, cells in enumerate(sheet.cells) if not cells[place].strip()]


def _made_mask(image: Path, folder: Path, made_by: str, weights: str | Path | None) -> Path:
    """Make one mask unless that was done; return it, or the record of its refusal."""
    stamp = {
        "image": file_state(image),
        "made_by": made_by,
        "version": metadata.version("monai_vfx"),
        "weights": None if weights is None else str(weights),
    }
    mask, refused = folder / MASK, folder / REFUSED_MASK
    if _read(folder / _RECORD) == stamp:
        if mask.is_file():
            return mask
        if (_read(refused) or {"code": None})["code"] not in (None, *_WORTH_ANOTHER_TRY):
            return refused
    for old in (mask, refused, folder / PICTURE, folder / FACTS, folder / _RECORD):
        old.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    source = MaskSource(image, made_by, folder, compare=False, segmentation=False, weights=weights)
    try:
        case = load_case(image, source)
        check_case(case)
        source.review(case)
    except CaseRefused as refusal:
        if refusal.code in _NO_FAULT_OF_THE_CT:
            raise
        mask.unlink(missing_ok=True)
        facts = {n: getattr(refusal, n) for n in ("code", "message", "remedy")}
        write_json(refused, facts)
    write_json(folder / _RECORD, stamp)
    return refused if refused.is_file() else mask


def _read(path: Path) -> Json | None:
    try:
        document: Json = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document
