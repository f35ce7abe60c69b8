"""Masks for the rows of a cohort table that name none: made once, kept in a folder, used again.

Each such row gets a folder named by its case, with the mask, its preview and the evidence for it. A
CT whose vertebrae cannot be named gets the file ``mask_refused.json`` in place of a mask; loading
that refuses the case with the code it holds (:func:`monai_vfx.case.mask.load.load_masks`), so that
the case is listed like every other refused one and the others are not held up.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from monai_vfx.analysis.cohort.training_items import FILLED_TABLE, write_filled_record
from monai_vfx.case.case import check_case, load_case
from monai_vfx.case.mask.read import REFUSED_MASK
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.files import read_json, write_csv, write_json
from monai_vfx.core.hashing import file_state
from monai_vfx.core.tables import read_table
from monai_vfx.vertebrae.sources.source import FACTS, MASK, PICTURE, MaskSource

_RECORD = "made.json"
_NO_FAULT_OF_THE_CT = ("weights_unreadable", "weights_mismatch")
_WORTH_ANOTHER_TRY = ("mask_not_made", "input_unreadable", "file_truncated")


def count_missing_masks(table: str | Path) -> int:
    """Count the rows of a table that have an image but name no mask; 0 for an unreadable table."""
    if not Path(table).is_file():
        return 0
    found = read_table(table)
    return sum(not row.get("mask") for _, row in found.rows()) if "image" in found.header else 0


def fill_missing_masks(
    table: str | Path,
    folder: str | Path,
    made_by: str = "auto",
    tell: Callable[[str], None] | None = None,
    weights: str | Path | None = None,
) -> Path:
    """Return a table whose every row names a mask; the same one where nothing is missing.

    Args:
        table: checked CSV with ``case_id`` and ``image``; its other columns are kept.
        folder: for the masks, one folder per case, and for the completed table ``cohort.csv``.
        made_by: ``auto``, ``totalsegmentator`` or ``spine-segment``.
        tell: called with a line about each mask.
        weights: folder with the weights of the vertebra segmentation; the package's by default.

    Raises:
        CaseRefused: ``weights_unreadable`` or ``weights_mismatch``: no mask at all can be made.
        MissingDependencyError: a tool is asked for and not installed.
    """
    table, folder = Path(table), Path(folder)
    missing = count_missing_masks(table)
    if not missing:
        return table
    found = read_table(table)
    columns = found.header if "mask" in found.header else [*found.header, "mask"]
    rows = [dict(zip(found.header, cells, strict=True)) for cells in found.cells]
    done = refused = 0
    for row in rows:
        row["image"] = str((table.parent / row["image"].strip()).resolve())
        if row.get("mask", "").strip():
            row["mask"] = str((table.parent / row["mask"].strip()).resolve())
            continue
        done += 1
        case = row["case_id"].strip()
        made = _make_mask(Path(row["image"]), folder / case, made_by, weights)
        refused += made.name == REFUSED_MASK
        row["mask"] = str(made.resolve())
        if tell is not None:
            outcome = "refused" if made.name == REFUSED_MASK else "made"
            tell(f"mask {done} of {missing}, case {case}: {outcome}")
    filled = folder / FILLED_TABLE
    write_csv(filled, columns, rows)
    facts: Json = {"made_by": made_by, "made": missing - refused, "refused": refused}
    write_filled_record(filled, table, facts)
    return filled


def _make_mask(image: Path, folder: Path, made_by: str, weights: str | Path | None) -> Path:
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
        write_json(refused, refusal.to_json())
    write_json(folder / _RECORD, stamp)
    return refused if refused.is_file() else mask


def _read(path: Path) -> Json | None:
    try:
        document: Json = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return document
