"""Read the headers of a CT for the objects derived from it: complete, in slice order, in UTF-8.

With a :class:`Deidentifier` they hold nothing of the patient, and so does nothing built from them.
"""

from __future__ import annotations

import json
import re
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.io.dicom.enhanced import pictures
from monai_vfx.io.dicom.reading import Series, read_series

UNICODE = "ISO_IR 192"
"""DICOM's name of UTF-8, in which every object is written."""
METHOD = ("monai_vfx: only geometry and pixel description are kept", "UIDs under a secret key")
"""De-identification method of an object (DICOM PS3.3, C.7.1.1)."""
NO_DATE, NO_TIME = "19000101", "000000"
"""Date and time of de-identified objects where one is required."""

_REQUIRED = ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_OFTEN_ABSENT = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""Attributes that are required but may be empty (type 2); de-identified series lack some."""
_MOMENTS = ("PatientBirthDate", "StudyDate", "StudyTime")
_SEXES = ("M", "F", "O", "")
_KEPT = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("FrameOfReferenceUID", "Modality", "ImageType", "Rows", "Columns"),
    *("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness"),
    *("SpacingBetweenSlices", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    "BurnedInAnnotation",
)
"""Attributes that a de-identified header keeps."""

_UID = re.compile(
    r"(?<![\d.])[012](?:(?:\.\d+){4,}|(?=[\d.]{16})(?:\.\d+){2,})(?![\d.]*\d)", re.ASCII
)
"""A UID within a text: five components, or three in a long one (2.25 and a UUID); versions are
shorter. Components with a leading zero are invalid, but scanners write them."""


class NotDerivable(Exception):  # noqa: N818 - a property of the series, not a program error
    """The headers of a series lack what a DICOM object derived from it must repeat."""


class Deidentifier:
    """Replaces UIDs under a secret that is never written and ends with the run.

    Each UID has one replacement, so that the objects of a run belong together; the original cannot
    be recovered from it, not even by trying all those of an archive.

    >>> hide = Deidentifier()
    >>> hide.uid("1.2.3") == hide.uid("1.2.3"), hide.uid("1.2.3") == Deidentifier().uid("1.2.3")
    (True, False)
    """

    def __init__(self) -> None:
        self._secret = secrets.token_hex(32)

    def uid(self, original: str) -> str:
        """Return the replacement of a UID."""
        from pydicom.uid import generate_uid

        return str(generate_uid(entropy_srcs=[self._secret, original]))

    def document(self, document: Json) -> Json:
        """Return a JSON document with every DICOM UID replaced, in messages too.

        >>> Deidentifier().document({"a": ["0.1.0"]})
        {'a': ['0.1.0']}
        """
        text = _UID.sub(lambda found: self.uid(found.group()), json.dumps(document))
        cleaned: Json = json.loads(text)
        return cleaned

    def header(self, header: Any) -> Any:
        """Return what a derived object needs of the header of a CT, without the patient."""
        from pydicom.dataset import Dataset

        kept = Dataset()
        for name in _KEPT:
            if name in header:  # frames share elements: a new one each
                kept.add_new(header[name].tag, header[name].VR, header[name].value)
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(kept, name, self.uid(str(header[name].value)))
        kept.FrameOfReferenceUID = self.uid(str(header.FrameOfReferenceUID))
        # Archives quarantine objects without a patient ID.
        pseudonym = self.uid(str(header.get("PatientID", ""))).rpartition(".")[2][:12]
        kept.PatientID, kept.PatientName = pseudonym, f"DEIDENTIFIED^{pseudonym}"
        return kept


@dataclass(frozen=True)
class SourceHeaders:
    """The headers of one CT series, slice by slice along its normal.

    Each frame of an Enhanced object has a header here as if it were a classic slice, under its own
    UID, which :meth:`restore` replaces by object and frame number.

    Attributes:
        slices: one header per slice.
        series: the series that they belong to.
        deidentified: whether they hold nothing of the patient.
        frames: UID of the header of a frame → class and UID of the object, number of the frame.
    """

    slices: tuple[Any, ...]
    series: Series
    deidentified: bool
    frames: dict[str, tuple[str, str, int]]

    @property
    def first(self) -> Any:
        """The header that gives patient, study and series."""
        return self.slices[0]

    def restore(self, made: Any) -> None:
        """Turn the references of a derived object to frames of Enhanced objects."""
        if self.frames:
            self._restore(made, within_series=False)

    def _restore(self, item: Any, *, within_series: bool) -> None:
        original = self.frames.get(str(item.get("ReferencedSOPInstanceUID", "")))
        if original is not None:
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, number = original
            if not within_series:  # lists of the objects of a series reference whole objects
                item.ReferencedFrameNumber = number
        for element in item:
            if element.VR != "SQ":
                continue
            lists = element.keyword in ("ReferencedInstanceSequence", "ReferencedSOPSequence")
            objects = within_series and lists
            for child in element.value:
                series = element.keyword == "ReferencedSeriesSequence"
                self._restore(child, within_series=series or objects)
            if objects:
                once = {str(child.ReferencedSOPInstanceUID): child for child in element.value}
                element.value = list(once.values())


def source_headers(
    image: str | Path, series_uid: str | None = None, hide: Deidentifier | None = None
) -> SourceHeaders:
    """Read the headers of one CT series for objects that are derived from it.

    Texts are converted to UTF-8. Absent attributes of type 2 become empty, and so do invalid dates
    and sexes; nothing else is changed or invented.

    Args:
        image: DICOM folder, zip or file.
        series_uid: which series, where there are several.
        hide: removes the patient from them.

    Raises:
        NotDerivable: an attribute that every derived object repeats is absent, or a text cannot be
            decoded in its character set.
        CaseRefused: see :func:`monai_vfx.io.dicom.reading.read_series`.
    """
    from pydicom import dcmread
    from pydicom.config import disable_value_validation
    from pydicom.uid import CTImageStorage, generate_uid

    series = read_series(Path(image), series_uid)
    with disable_value_validation():
        read = []
        for source in dict.fromkeys(series.sources):
            with source.open() as stream:
                header = dcmread(stream, stop_before_pixels=True)
            absent = [name for name in _REQUIRED if not header.get(name)]
            if absent:
                raise NotDerivable(f"the CT's headers lack {', '.join(absent)}")
            read.append((source, header if hide is not None else _decoded(header)))
        found = {(p.source, p.frame): p.header for p in pictures(read)}
        numbers = series.frame_numbers or (None,) * len(series.sources)
        slices, frames = [], {}
        for key in zip(series.sources, numbers, strict=True):
            header = _filled(found[key] if hide is None else hide.header(found[key]))
            if key[1] is not None:
                original = (str(header.SOPClassUID), str(header.SOPInstanceUID), key[1])
                for name in ("NumberOfFrames", "SOPClassUID", "SOPInstanceUID"):
                    header.pop(name, None)  # frames share elements: a new one each
                header.SOPClassUID = CTImageStorage
                header.SOPInstanceUID = generate_uid(entropy_srcs=[original[1], str(key[1])])
                frames[str(header.SOPInstanceUID)] = original
            slices.append(header)
    return SourceHeaders(tuple(slices), series, hide is not None, frames)


def _decoded(header: Any) -> Any:
    try:
        with warnings.catch_warnings():  # a warning would hold the text; a guess would rename
            warnings.simplefilter("error")
            header.decode()
    except (LookupError, UnicodeError, UserWarning, ValueError) as error:
        raise NotDerivable("a text cannot be read in the CT's character set") from error
    header.SpecificCharacterSet = UNICODE
    return header


def _filled(header: Any) -> Any:
    from pydicom.valuerep import DA, TM

    for name in _OFTEN_ABSENT:
        if name not in header:
            setattr(header, name, "")
    for name in _MOMENTS:
        text = str(header[name].value or "")
        try:
            moment = TM(text) if name.endswith("Time") else DA(text)
        except ValueError:
            moment = None
        if isinstance(moment, DA):  # also from 1950.01.02, as it was written before DICOM
            text = moment.strftime("%Y%m%d")
        setattr(header, name, "" if moment is None else text)
    if header.PatientSex not in _SEXES:
        header.PatientSex = ""
    return header
