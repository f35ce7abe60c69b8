"""All files of an input: their kinds, the headers of DICOM objects, and whether each is whole."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from monai_vfx.core.errors import CaseRefused, access_refused, reason
from monai_vfx.io.dicom.archives import (
    MARK,
    NESTED_SUFFIXES,
    PREAMBLE,
    Source,
    list_sources,
    quiet_pydicom,
)
from monai_vfx.io.dicom.directory import DICOMDIR, is_directory, references
from monai_vfx.io.dicom.facts import FACT_TAGS
from monai_vfx.io.dicom.values import terms, text

_HEADER_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"),
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex"),
    *("BodyPartExamined", "ContrastBolusAgentSequence", "Modality", "ImageType"),
    *("PatientID", "PatientAge", "PatientSex", "PatientPosition", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "LossyImageCompressionRatio"),
    *("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *FACT_TAGS,
)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_CT_CLASSES = tuple(f"{_STORAGE}2{part}" for part in ("", ".1", ".2"))  # also Enhanced
_KINDS = {  # start of what follows in a storage class's UID → kind, the longest first
    "88.59": "annotation",  # key object selection
    "88.": "report",
    "104.": "document",
    "11.": "annotation",  # presentation states
    "66.": "annotation",  # segmentations, registrations
    "481.": "annotation",  # radiotherapy
}
_CAPTURES = {f"{_STORAGE}7{part}" for part in ("", ".1", ".2", ".3", ".4")}
OTHER_FILES = {
    "localizer": "localizer images",
    "secondary_capture": "secondary captures",
    "report": "structured reports, such as dose reports",
    "document": "encapsulated documents, such as PDF",
    "annotation": "segmentations, structure sets, presentation states, key objects",
    "other_modality": "images of another modality",
    "other_dicom": "other DICOM objects",
    "dicomdir": "DICOMDIR files",
    "not_dicom": "files that are no DICOM",
    "damaged": "damaged files",
    "missing": "files that a DICOMDIR names and that are not there",
    "nested_archive": "archives within the input, not opened",
    "link": "links and other special files of an archive, not followed",
}
"""Kind of a file that is no CT image → its meaning."""


_DICOM_KINDS = ("ct", *list(OTHER_FILES)[: list(OTHER_FILES).index("dicomdir")])


@dataclass(frozen=True)
class Found:
    """A whole DICOM object: its header without pixels; ``ct``, or a key of :data:`OTHER_FILES`."""

    source: Source
    header: Any
    kind: str

    @property
    def is_image(self) -> bool:
        """Whether it holds pixels."""
        return "Rows" in self.header

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID; empty where it is absent."""
        return text(self.header, "SeriesInstanceUID")


@dataclass(frozen=True)
class Lost:
    """A DICOM file that is damaged, or that a DICOMDIR names and that is not there.

    Attributes:
        message: what is wrong.
        series_uid: that it belongs to, as far as its header or the DICOMDIR says; else None.
        may_be_ct: whether nothing shows that it is another kind of object.
        missing: whether the file is not there at all.
    """

    message: str
    series_uid: str | None
    may_be_ct: bool
    missing: bool = False


@dataclass(frozen=True)
class Scan:
    """All files of an input, in the order of their names.

    ``missing`` are files that a DICOMDIR names and that are not there; ``others`` counts what is
    no DICOM object, by kind (:data:`OTHER_FILES`).
    """

    found: tuple[Found, ...]
    damaged: tuple[Lost, ...]
    missing: tuple[Lost, ...]
    others: dict[str, int]


def scan_files(path: Path) -> Scan:
    """Read the headers of all files of an input, once.

    Raises:
        CaseRefused: ``input_unreadable``, ``archive_too_large``; ``file_truncated`` for an archive
            or a DICOMDIR that cannot be read.
    """
    with access_refused():
        sources, links = list_sources(path)
        there = sources
        given = sources == [Source(path)] and is_directory(sources[0])
        if given:
            there, _ = list_sources(path.parent)
            named = {reference.key for reference in references(sources[0])}
            sources += [source for source in there if source.place.lower() in named]
        scanned = [(source, *_look(source)) for source in sources]
        missing, unread = _missing(
            [source for source, kind, _ in scanned if kind == "dicomdir"], there, given
        )
    found = [Found(source, h, kind) for source, kind, h in scanned if kind in _DICOM_KINDS]
    damaged = [lost for _, kind, lost in scanned if kind == "damaged"]
    with_images = {item.source.folder for item in found if item.is_image}
    others = Counter({"link": links, "damaged": unread})
    for source, kind, _ in scanned:
        if kind == "blank" and source.folder in with_images:
            damaged.append(Lost("a file is empty", None, True))
        elif kind not in (*_DICOM_KINDS, "damaged"):
            others["not_dicom" if kind == "blank" else kind] += 1
    return Scan(tuple(found), tuple(damaged), missing, dict(others))


def _missing(
    directories: Sequence[Source], there: Sequence[Source], given: bool
) -> tuple[tuple[Lost, ...], int]:
    """Return what DICOMDIRs name and is not there, and how many of them cannot be read."""
    present = {source.place.lower() for source in there}
    missing, unread = [], 0
    for source in directories:
        try:
            named = references(source)
        except CaseRefused:
            if given:
                raise
            unread += 1
            continue
        missing += [
            Lost("a file that the DICOMDIR names is not there", r.series_uid, r.may_be_ct, True)
            for r in named
            if r.key not in present
        ]
    return tuple(missing), unread


def _look(source: Source) -> tuple[str, Any]:
    """Return the kind of a file, and its header if it is a DICOM object, or what is wrong."""
    try:
        start = source.start()
        if start[PREAMBLE:] == MARK:
            return _header(source)
    except CaseRefused as refusal:
        if refusal.code != "file_truncated":
            raise
        return "damaged", _lost(source, refusal.message)
    name = source.name.lower()
    if name.endswith(".dcm"):
        return "damaged", Lost("a .dcm file is no DICOM", None, True)
    if not start[:PREAMBLE].strip(b"\0"):
        return "blank", None
    return ("nested_archive" if name.endswith(NESTED_SUFFIXES) else "not_dicom"), None


_SERIES_TAG = 0x0020000E
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # of real numbers and of whole ones
_MAX_VALUE, _UNDEFINED = 2**27, 2**32 - 1  # bytes; the second means: until an end mark


def _lost(source: Source, message: str) -> Lost:
    """Say where a damaged file belongs, as far as its header can be read."""
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    whole_uid = False

    def is_behind(tag: Any, vr: str | None, length: int) -> bool:
        nonlocal whole_uid
        whole_uid = whole_uid or tag > _SERIES_TAG
        return bool(tag > _SERIES_TAG)

    tags = ["SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID"]
    try:
        with quiet_pydicom(), source.open() as file:
            header = read_partial(file, is_behind, specific_tags=[Tag(tag) for tag in tags])
            uid, kind = text(header, "SeriesInstanceUID"), _kind(header)
    except PermissionError:
        raise
    except Exception:  # damaged bytes raise anything; then it is not known where the file belongs
        return Lost(message, None, True)
    if not whole_uid or not re.fullmatch(r"[0-9.]+", uid):
        return Lost(message, None, True)  # a UID may be cut, and look like another
    return Lost(message, uid, kind == "ct")


def _kind(header: Any) -> str:
    """Return the kind of a DICOM object, ``ct`` for a CT image."""
    sop_class = text(header, "SOPClassUID")
    for start, kind in _KINDS.items():
        if sop_class.startswith(_STORAGE + start):
            return kind
    if sop_class in _CAPTURES:
        return "secondary_capture"
    if text(header, "Modality") != "CT":
        return "other_modality"
    return "localizer" if "LOCALIZER" in terms(header, "ImageType") else "ct"


def read_tags(source: Source, tags: Sequence[str]) -> Any:
    """Return some tags of a file whose header could be read before."""
    import pydicom

    with access_refused(), quiet_pydicom(), source.open() as file:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags))


def _header(source: Source) -> tuple[str, Any]:
    """Return the kind and header of a DICOM object; no header for a DICOMDIR."""
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    try:
        with quiet_pydicom(), source.open() as file:
            header = read_partial(file, _at_pixels, specific_tags=[Tag(t) for t in _HEADER_TAGS])
            for _ in header:  # turns every value from bytes, so that later use finds none damaged
                pass
            if "Rows" in header:
                _check_complete(file, header)
                return _kind(header), header
            announced = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
            sop_class = str(header.get("SOPClassUID", ""))
    except (CaseRefused, PermissionError):
        raise
    except Exception as error:
        message = f"a DICOM file cannot be read ({reason(error)})"
        raise CaseRefused("file_truncated", message) from error
    if announced == DICOMDIR:
        return "dicomdir", None
    cut = not sop_class or (announced != sop_class and announced.startswith(sop_class))
    if cut or sop_class in _CT_CLASSES:
        raise CaseRefused("file_truncated", "a DICOM file ends within its header")
    kind = _kind(header)
    return ("other_dicom" if kind in ("ct", "localizer", "other_modality") else kind), header


def _at_pixels(tag: Any, vr: str | None, length: int) -> bool:
    """Say where a header ends; refuse what would fill the memory with one of its values."""
    if _MAX_VALUE < length < _UNDEFINED and tag < _PIXELS[0]:
        raise ValueError("too long a value")
    return tag in _PIXELS


_SEQUENCE_END = b"\xfe\xff\xdd\xe0"
_TAIL = 4096  # bytes at a file's end; a little may follow the pixel data


def _check_complete(file: BinaryIO, header: Any) -> None:
    """Compare the bytes that remain behind the header with the pixels it announces."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    here = file.tell()
    remaining = file.seek(0, io.SEEK_END) - here
    if syntax is not None and not syntax.is_transfer_syntax:
        return  # what it announces cannot be known; the series will be refused for it
    if syntax is not None and syntax.is_deflated:
        return  # inflated as a whole when the header was read
    if syntax is not None and syntax.is_encapsulated:
        expected = 1
        file.seek(max(here, here + remaining - _TAIL))
        if _SEQUENCE_END not in file.read():
            raise CaseRefused("file_truncated", "compressed pixel data have no end mark")
    else:
        usual = {"Rows": 0, "Columns": 0, "NumberOfFrames": 1, "SamplesPerPixel": 1}
        usual["BitsAllocated"] = 16
        expected = prod(int(header.get(tag, n) or n) for tag, n in usual.items()) // 8
        # Reading stopped before the element: tag, VR and length come first (PS3.5, 7.1).
        remaining -= 8 if syntax is not None and syntax.is_implicit_VR else 12
    if remaining < expected:
        message = f"pixel data end after {max(remaining, 0)} of {expected} bytes"
        raise CaseRefused("file_truncated", message)
