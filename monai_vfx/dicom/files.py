"""The DICOM files of a folder or a zip: their headers, and whether each file is whole."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from monai_vfx.errors import CaseRefused

_HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "ImageType",
    "PatientID",
    "PatientAge",
    "PatientSex",
    "PatientPosition",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
]
_CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")  # CT, Enhanced CT


@dataclass(frozen=True)
class Source:
    """Where the bytes of one file lie: a path, or a member of a zip."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.member or self.path.name

    def open(self) -> BinaryIO:
        """Open for reading; a member of a zip is unpacked in memory."""
        if self.member is None:
            return self.path.open("rb")
        with zipfile.ZipFile(self.path) as archive:
            return io.BytesIO(archive.read(self.member))


def _sources(path: Path) -> Iterator[Source]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                yield Source(file)
    elif path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                members = sorted(m.filename for m in archive.infolist() if not m.is_dir())
        except (zipfile.BadZipFile, OSError) as error:
            raise CaseRefused("file_truncated", f"the zip cannot be read ({error})") from error
        for member in members:
            yield Source(path, member)
    else:
        yield Source(path)


def read_headers(path: Path) -> tuple[list[tuple[Source, Any]], int]:
    """Return the headers of all DICOM images below ``path`` and the count of other files."""
    headers, damaged, ignored = [], [], 0
    for source in _sources(path):
        try:
            header = _header(source)
        except CaseRefused as refusal:
            damaged.append(refusal)
            continue
        if header is None:
            ignored += 1
        else:
            headers.append((source, header))
    if damaged:
        raise CaseRefused(
            "file_truncated",
            f"{len(damaged)} of {len(damaged) + len(headers)} DICOM files are damaged; "
            f"the first: {damaged[0].message}",
        )
    if not headers:
        raise CaseRefused("no_image", f"no DICOM image among {ignored} files")
    return headers, ignored


def _header(source: Source) -> Any | None:
    """Return the header of an image; None for what is no DICOM image."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with source.open() as file:
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
            except InvalidDicomError:
                if source.name.lower().endswith(".dcm"):
                    raise CaseRefused("file_truncated", "a .dcm file is no DICOM") from None
                return None
            if "Rows" not in header:  # a report, a DICOMDIR, or an image cut in its header
                if str(header.file_meta.get("MediaStorageSOPClassUID", "")) in _CT_CLASSES:
                    raise CaseRefused("file_truncated", "a CT file ends within its header")
                return None
            _check_complete(file, header)
            return header
    except (EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CaseRefused("file_truncated", f"a DICOM file cannot be read ({error})") from error


def _check_complete(file: BinaryIO, header: Any) -> None:
    """Compare the bytes that remain behind the header with the pixels it announces."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    here = file.tell()
    remaining = file.seek(0, io.SEEK_END) - here
    if syntax is not None and (syntax.is_encapsulated or syntax.is_deflated):
        expected = 1
    else:
        pixels = int(header.get("Rows", 0)) * int(header.get("Columns", 0))
        frames = int(header.get("NumberOfFrames", 1) or 1) * int(header.get("SamplesPerPixel", 1))
        expected = pixels * frames * int(header.get("BitsAllocated", 16)) // 8
    if remaining < expected:
        raise CaseRefused(
            "file_truncated",
            f"pixel data end after {max(remaining, 0)} of {expected} bytes",
        )
