"""Which CTs are worked on: one, the rows of a manifest, or what lies in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_vfx.analysis.cohort.variables import COLUMNS
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_csv
from monai_vfx.core.hashing import digest_of, file_state
from monai_vfx.core.results import check_case_name
from monai_vfx.core.tables import Table, read_table
from monai_vfx.io.dicom.facts import Expected
from monai_vfx.io.dicomweb.address import PacsAddress, is_address, parse_address
from monai_vfx.io.volume import NIFTI_SUFFIXES, NRRD_SUFFIXES, is_dicom

KEY_FILE = "studies.csv"
"""Which entry of a folder is which case; a manifest for the next call, too."""
_NUMBERED = re.compile(r"study_(\d+)")
_COMPARED = ("age", "sex", "scan_date")
_COLUMNS = ("case_id", "image", "mask", "series_uid", "clinical", *_COMPARED)
_FILES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".dcm", *NIFTI_SUFFIXES, *NRRD_SUFFIXES)


@dataclass(frozen=True)
class CaseInput:
    """One case to work on.

    Attributes:
        case_id: its name in the results, fit for a folder's name; never a patient's name.
        image: a path, whether or not anything is there, or an address in a PACS.
        mask: path of the mask; None where none is given.
        series_uid: SeriesInstanceUID; None leaves the choice to the reader.
        clinical: path of a one-row table.
        expected: what a table says of the patient, to be compared with the header.
    """

    case_id: str
    image: Path | PacsAddress
    mask: Path | None = None
    series_uid: str | None = None
    clinical: Path | None = None
    expected: Expected = field(default_factory=Expected)

    def __post_init__(self) -> None:
        check_case_name(self.case_id)

    def states(self) -> dict[str, str | None]:
        """Return a digest of size and time of the files of ``image``, ``mask`` and ``clinical``.

        None where nothing is given, for what lies in a PACS, and in a folder that is closed to us.
        """
        files = {"image": self.image, "mask": self.mask, "clinical": self.clinical}
        return {name: _state(file) for name, file in files.items()}

    def stamp(self, states: dict[str, str | None]) -> str:
        """Return a digest of all that the row says, without the places of its files.

        The files count by their states, and an address in a PACS by itself.
        """
        address = None if isinstance(self.image, Path) else str(self.image)
        return digest_of([self.case_id, address, self.series_uid, str(self.expected), states])


def _state(file: Path | PacsAddress | None) -> str | None:
    try:
        return file_state(file) if isinstance(file, Path) else None
    except OSError:  # a folder that is closed to us: the case will be refused for it
        return None


def read_manifest(path: str | Path) -> list[CaseInput]:
    """Read a table of CTs; a cohort table is one.

    Args:
        path: CSV in UTF-8 with the columns ``case_id`` and ``image`` (a path, or the address of a
            study or series in a PACS); optional ``mask``, ``series_uid``, ``clinical`` (a one-row
            table), and ``age`` (years), ``sex`` (F or M) and ``scan_date`` (YYYY-MM-DD), which are
            compared with the header. Other columns are ignored. Relative paths start at the
            table's folder. A file that does not exist is the refusal of its case alone.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell.
    """
    path = Path(path)
    table = read_table(path)
    table.check_header(_COLUMNS, required=("case_id", "image"))
    table.refuse()
    values = table.check({name: COLUMNS[name] for name in _COMPARED})
    seen: dict[str, int] = {}
    cases = []
    for place, (number, row) in enumerate(table.rows()):
        for column, rule in _faults(row, path.parent, seen):
            table.note(number, column, "" if is_address(row[column]) else row[column], rule)
        seen.setdefault(row["case_id"].casefold(), number)
        known = (values[name][place] if name in values else None for name in _COMPARED)
        if not table.faults:
            cases.append(_case(row, path.parent, *known))
    table.refuse()
    return cases


def find_studies(folder: Path, out: Path) -> list[CaseInput]:
    """List what lies in a folder; each sub-folder, archive or image file is a case.

    Folders and files may be named after patients, so cases are numbered (``study_00001``). Which is
    which is written to ``studies.csv`` in ``out``, the only file there with paths. It is a
    manifest, and cases keep their numbers when others are added to the folder. Columns that a
    person adds to it stay, and those of a manifest (``mask``, ``age`` …) count.

    Args:
        folder: with studies.
        out: of the results.

    Raises:
        CaseRefused: ``no_image``, when nothing in the folder can be a study; ``cohort_invalid``,
            when ``studies.csv`` was edited into something that is no manifest.
        SettingError: ``out`` lies in the folder, and would be taken for a study.
    """
    folder, out = folder.resolve(), out.resolve()
    if out == folder or folder in out.parents:
        raise SettingError("out must not lie in the folder of studies: choose another place")
    found_paths = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and _may_be(p)]
    if not found_paths:
        raise CaseRefused("no_image", "the folder holds no sub-folder, archive or image file")
    key = out / KEY_FILE
    known = {case.image: case for case in read_manifest(key)} if key.is_file() else {}
    # Not the count: a person may have taken rows out of the key, and no number is given twice.
    numbers = [int(found[1]) for c in known.values() if (found := _NUMBERED.fullmatch(c.case_id))]
    new = [path for path in found_paths if path not in known]
    for number, path in enumerate(new, start=max(numbers, default=0) + 1):
        known[path] = CaseInput(f"study_{number:05d}", path)
    if new:
        _add_to_key(key, [known[path] for path in new])
    return [known[path] for path in found_paths]


def _faults(row: dict[str, str], folder: Path, seen: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield column and rule of each bad cell of a row; ``seen`` holds the rows of other names."""
    try:
        check_case_name(row["case_id"])
    except SettingError:
        yield "case_id", "must be a name that can serve as a folder's"
    other = seen.get(row["case_id"].casefold())  # folders of some systems do not tell A from a
    if other is not None:
        yield "case_id", f"also in row {other}; names must differ, upper and lower case aside"
    image = row["image"]
    if not image:
        yield "image", "must not be empty"
    elif is_address(image):
        try:
            if parse_address(image).study_uid is None:
                yield "image", "must name a study of the PACS"
        except SettingError as error:
            yield "image", str(error)
    elif row.get("series_uid") and not is_dicom(folder / image):
        yield "series_uid", "only DICOM holds series: leave the cell empty"


def _case(row: dict[str, str], folder: Path, age: Any, sex: Any, scan_date: Any) -> CaseInput:
    image = row["image"]
    mask, clinical = (
        (folder / row[name]).resolve() if row.get(name) else None for name in ("mask", "clinical")
    )
    return CaseInput(
        case_id=row["case_id"],
        image=parse_address(image) if is_address(image) else (folder / image).resolve(),
        mask=mask,
        series_uid=row.get("series_uid") or None,
        clinical=clinical,
        expected=Expected(age, sex, scan_date),
    )


def _may_be(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith(_FILES)


def _add_to_key(path: Path, new: list[CaseInput]) -> None:
    """Add rows to the key; what a person wrote into it, columns and rows, stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = read_table(path) if path.is_file() else Table(header=["case_id", "image"])
    rows = [dict(zip(kept.header, cells, strict=True)) for cells in kept.cells]
    rows += [{"case_id": case.case_id, "image": str(case.image)} for case in new]
    write_csv(path, kept.header, rows)
