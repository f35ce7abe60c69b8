"""The headers of a CT as the objects derived from it need them: whole, in slice order, in UTF-8.

With a :class:`Deidentifier` they hold nothing of the patient any more, so that whatever is built
from them cannot either.
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
"""DICOM's name of UTF-8; every object is written in it, whatever the CT is written in."""
METHOD = ("monai_vfx: only geometry and pixel description are kept", "UIDs under a secret key")
"""What a de-identified object says of how that was done (DICOM PS3.3, C.7.1.1)."""
NO_DATE, NO_TIME = "19000101", "000000"
"""What stands in place of a date that an object must have, when it is de-identified."""

_REQUIRED = ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_OFTEN_ABSENT = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""Attributes that must be there but may be empty (type 2); de-identified series lack some."""
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
"""What a de-identified header keeps."""


_UID = re.compile(
    r"(?<![\d.])[012](?:(?:\.\d+){4,}|(?=[\d.]{16})(?:\.\d+){2,})(?![\d.]*\d)", re.ASCII
)
"""A UID within a text: five parts, or three in a long one (2.25 and a UUID). Versions are shorter.
Parts that begin with a zero are no valid ones, but scanners write them."""


class NotDerivable(Exception):  # noqa: N818 - what a series cannot have, not a fault of its own
    """A series whose headers lack what a DICOM object derived from it must repeat."""


class Deidentifier:
    """Replaces UIDs under a secret that ends with the run and is never written.

    One original becomes one replacement, so that the objects of a run belong together; nobody can
    come from a replacement to the original, not even by trying those of an archive.

    >>> hide = Deidentifier()
    >>> hide.uid("1.2.3") == hide.uid("1.2.3"), hide.uid("1.2.3") == Deidentifier().uid("1.2.3")
    (True, False)
    """

    def __init__(self) -> None:
        self._secret = secrets.token_hex(32)

    def uid(self, original: str) -> str:
        """Return the UID that stands for another one."""
        from pydicom.uid import generate_uid

        return str(generate_uid(entropy_srcs=[self._secret, original]))

    def document(self, document: Json) -> Json:
        """Return a JSON document whose every DICOM UID is replaced, in messages too.

        >>> Deidentifier().document({"a": ["0.1.0"]})
        {'a': ['0.1.0']}
        """
        text = _UID.sub(lambda found: self.uid(found.group()), json.dumps(document))
        cleaned: Json = json.loads(text)
        return cleaned

    def header(self, header: Any) -> Any:
        """Return what a derived object needs of a CT's header, without the patient."""
        from pydicom.dataset import Dataset

        kept = Dataset()
        for name in _KEPT:
            if name in header:  # frames share elements: a new one each
                kept.add_new(header[name].tag, header[name].VR, header[name].value)
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(kept, name, self.uid(str(header[name].value)))
        kept.FrameOfReferenceUID = self.uid(str(header.FrameOfReferenceUID))
        # Archives put objects without an ID away where nobody finds them.
        pseudonym = self.uid(str(header.get("PatientID", ""))).rpartition(".")[2][:12]
        kept.PatientID, kept.PatientName = pseudonym, f"DEIDENTIFIED^{pseudonym}"
        return kept


@dataclass(frozen=True)
class SourceHeaders:
    """The headers of one CT series, slice by slice along its normal.

    A frame of an Enhanced object has a header here as if it were a classic slice, under a UID of
    its own; :meth:`restore` puts object and frame number in that UID's place.

    Attributes:
        slices: a header each.
        series: the series that they belong to.
        deidentified: whether they hold nothing of the patient.
        frames: UID of such a header → class and UID of the object, number of the frame.
    """

    slices: tuple[Any, ...]
    series: Series
    deidentified: bool
    frames: dict[str, tuple[str, str, int]]

    @property
    def first(self) -> Any:
        """The header that stands for patient, study and series."""
        return self.slices[0]

    def restore(self, made: Any) -> None:
        """Turn the references of a derived object to what is there: frames of objects."""
        if self.frames:
            self._restore(made, within_series=False)

    def _restore(self, item: Any, *, within_series: bool) -> None:
        original = self.frames.get(str(item.get("ReferencedSOPInstanceUID", "")))
        if original is not None:
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, number = original
            if not within_series:  # lists of what a series holds name objects as a whole
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

    Texts are turned to UTF-8. Attributes of type 2 that are absent become empty, and so do a date
    or a sex that is none in DICOM; nothing else is changed or made up.

    Args:
        image: the DICOM folder, zip or file.
        series_uid: which series, where there are several.
        hide: takes the patient out of them.

    Raises:
        NotDerivable: an attribute that every derived object repeats is absent, or a text cannot be
            read in its character set.
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
        with warnings.catch_warnings():  # a remark would hold the text; a guess would rename
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
