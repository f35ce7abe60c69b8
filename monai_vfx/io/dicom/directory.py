"""The DICOMDIR of a disc: which files it names, and which series each belongs to.

Its records are linked by byte offsets (DICOM PS3.3, annex F.3); damaged links may run in circles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monai_vfx.core.errors import CaseRefused, reason
from monai_vfx.io.dicom.archives import Source, quiet_pydicom
from monai_vfx.io.dicom.values import text

DICOMDIR = "1.2.840.10008.1.3.10"
"""Class of a DICOMDIR; it stands in the meta header only."""


@dataclass(frozen=True)
class Reference:
    """A file that a DICOMDIR names.

    Attributes:
        key: folder and name, in small letters: discs are copied in either.
        series_uid: that it belongs to; None where the DICOMDIR does not say.
        may_be_ct: whether its series is one of CT, or of a modality that is not stated.
    """

    key: str
    series_uid: str | None
    may_be_ct: bool


def is_directory(source: Source) -> bool:
    """Whether a file is a DICOMDIR, by its name or its meta header."""
    from pydicom.filereader import read_partial

    if source.name.upper() == "DICOMDIR":
        return True
    if not source.is_dicom():
        return False
    try:
        with quiet_pydicom(), source.open() as file:
            meta = read_partial(file, lambda *_: True).file_meta
        return text(meta, "MediaStorageSOPClassUID") == DICOMDIR
    except PermissionError:
        raise
    except Exception:  # damaged bytes raise anything; reading the header will say so
        return False


def references(source: Source) -> list[Reference]:
    """Return every file that a DICOMDIR names."""
    import pydicom

    try:
        with quiet_pydicom(), source.open() as file:
            directory = pydicom.dcmread(file)
            records = {item.seq_item_tell: item for item in directory.DirectoryRecordSequence}
            first = directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity
            return _walk(records, first, source.folder)
    except PermissionError:
        raise
    except Exception as error:  # damaged bytes raise anything
        raise CaseRefused(
            "file_truncated", f"the DICOMDIR cannot be read ({reason(error)})"
        ) from error


def _walk(records: dict[Any, Any], first: int, folder: str) -> list[Reference]:
    """Follow the records to the next and down, each once; take what no link leads to at last."""
    found, seen = [], set()
    todo: list[tuple[Any, Any]] = [*((offset, None) for offset in records), (first, None)]
    while todo:
        offset, series = todo.pop()
        if not offset or offset in seen:
            continue
        seen.add(offset)
        if offset not in records:
            raise ValueError("a link leads to no record")  # the DICOMDIR is cut
        record = records[offset]
        todo.append((record.get("OffsetOfTheNextDirectoryRecord"), series))
        if text(record, "DirectoryRecordType") == "SERIES":
            series = record
        todo.append((record.get("OffsetOfReferencedLowerLevelDirectoryEntity"), series))
        name = record.get("ReferencedFileID")
        if not name and text(record, "DirectoryRecordType") == "IMAGE":
            raise ValueError("an image has no file")
        if name and record.get("RecordInUseFlag") != 0:  # 0: the record is no longer in use
            found.append(_reference(name, series, folder))
    return found


def _reference(name: Any, series: Any, folder: str) -> Reference:
    parts = [name] if isinstance(name, str) else list(name)
    return Reference(
        key="/".join([folder, *parts] if folder else parts).lower(),
        series_uid=(text(series, "SeriesInstanceUID") or None) if series is not None else None,
        may_be_ct=series is None or text(series, "Modality") in ("", "CT"),
    )
