"""Which studies are checked: the rows of a table, or what lies in a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from monai_vfx.analysis.cohort.variables import COLUMNS
from monai_vfx.core.cells import check_cell
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_csv
from monai_vfx.core.results import check_case_name
from monai_vfx.core.tables import Fault, Table, read_table, refuse_faults
from monai_vfx.io.dicom.facts import Expected
from monai_vfx.io.volume import NIFTI_SUFFIXES, NRRD_SUFFIXES

KEY_FILE = "studies.csv"
"""Which study of a folder is which case; a manifest for the next call, too."""
_NUMBERED = re.compile(r"study_(\d+)")
_COMPARED = ("age", "sex", "scan_date")
_FILES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".dcm", *NIFTI_SUFFIXES, *NRRD_SUFFIXES)


@dataclass(frozen=True)
class Study:
    """One row.

    Attributes:
        case: its name, unique.
        image: absolute path, whether or not anything lies there.
        mask: likewise; None where the row names none.
        series_uid: which series; None leaves it to the reader.
        expected: what the row says of the patient.
    """

    case_id: str
    image: Path
    mask: Path | None = None
    series_uid: str | None = None
    expected: Expected = field(default_factory=Expected)


def read_manifest(path: Path) -> list[Study]:
    """Read a table of studies; a cohort table is one.

    Args:
        path: CSV in UTF-8 with the columns ``case_id`` and ``image``; optional ``mask``,
            ``series_uid``, ``age`` (years), ``sex`` (F or M) and ``scan_date`` (YYYY-MM-DD), which
            are compared with the header. Relative paths start at the table's folder. Whether
            something lies there is the check's business.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell.
    """
    sheet = read_table(path)
    missing = [name for name in ("case_id", "image") if name not in sheet.header]
    faults = [*sheet.faults, *(Fault(1, name, "", "the column is missing") for name in missing)]
    refuse_faults(faults)
    studies, seen = [], dict[str, int]()
    for number, row in zip(sheet.numbers, _rows(sheet), strict=True):
        studies.append(_study(row, number, path.parent, faults))
        if row["case_id"] in seen:
            rule = f"also in row {seen[row['case_id']]}, must be unique"
            faults.append(Fault(number, "case_id", "", rule))
        seen.setdefault(row["case_id"], number)
    refuse_faults(faults)
    return studies


def find_studies(folder: Path, out: Path) -> list[Study]:
    """List what lies in a folder, each sub-folder, archive or image file a study.

    Folders and files may be named after patients, so cases are numbered (``study_00001``). Which is
    which stands in ``studies.csv`` in ``out``, the only file there with paths; it is a manifest,
    and studies keep their numbers when others are added to the folder. Columns that a person adds
    to it stay, and those of a manifest (``mask``, ``age`` …) count.

    Args:
        folder: with studies.
        out: of the check.

    Raises:
        CaseRefused: ``no_image``, when nothing in the folder can be a study; ``cohort_invalid``,
            when the key was edited into something that is no manifest.
        SettingError: ``out`` lies in the folder, and would be taken for a study.
    """
    folder, out = folder.resolve(), out.resolve()
    if out == folder or folder in out.parents:
        raise SettingError("out must not lie in the folder of studies: choose another place")
    found_paths = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and _may_be(p)]
    if not found_paths:
        raise CaseRefused("no_image", "the folder holds no sub-folder, archive or image file")
    key = out / KEY_FILE
    known = {study.image: study for study in read_manifest(key)} if key.is_file() else {}
    # Not the count: a person may have taken rows out of the key, and no number is given twice.
    numbers = [int(found[1]) for s in known.values() if (found := _NUMBERED.fullmatch(s.case_id))]
    new = {path for path in found_paths if path not in known}
    for number, path in enumerate((p for p in found_paths if p in new), start=1):
        known[path] = Study(f"study_{max(numbers, default=0) + number:05d}", path)
    if new:
        _add_to_key(key, [known[path] for path in found_paths if path in new])
    return [known[path] for path in found_paths]


def _rows(sheet: Table) -> list[dict[str, str]]:
    return [
        {name: cell.strip() for name, cell in zip(sheet.header, cells, strict=True)}
        for cells in sheet.cells
    ]


def _study(row: dict[str, str], number: int, folder: Path, faults: list[Fault]) -> Study:
    try:
        check_case_name(row["case_id"])
    except SettingError:
        rule = f"{row['case_id']!r}, must be a name that can serve as a folder's"
        faults.append(Fault(number, "case_id", "", rule))
    if not row["image"]:
        faults.append(Fault(number, "image", "", "must not be empty"))
    values = {}
    for name in _COMPARED:
        values[name], rules = check_cell(COLUMNS[name], row.get(name, ""))
        faults.extend(Fault(number, name, row.get(name, ""), rule) for rule in rules)
    age, sex, scanned = (values[name] for name in _COMPARED)
    mask = row.get("mask", "")
    return Study(
        case_id=row["case_id"],
        image=(folder / row["image"]).resolve(),
        mask=(folder / mask).resolve() if mask else None,
        series_uid=row.get("series_uid") or None,
        expected=Expected(
            None if age is None else float(str(age)),
            None if sex is None else str(sex),
            scanned if isinstance(scanned, date) else None,
        ),
    )


def _may_be(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith(_FILES)


def _add_to_key(path: Path, new: list[Study]) -> None:
    """Add rows to the key; what a person wrote into it, columns and rows, stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = read_table(path) if path.is_file() else Table(header=["case_id", "image"])
    rows = [dict(zip(kept.header, cells, strict=True)) for cells in kept.cells]
    rows += [{"case_id": study.case_id, "image": str(study.image)} for study in new]
    write_csv(path, kept.header, rows)
