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

from monai_vfx.dicom.files import Files
from monai_vfx.dicom.reading import Series, read_series
from monai_vfx.shapes import Json

UNICODE = "ISO_IR 192"
"""DICOM's name of UTF-8; every object is written in it, whatever the CT is written in."""
METHOD = ("monai_vfx: only geometry and pixel description are kept", "UIDs under a secret key")
"""What a de-identified object says of how that was done (DICOM PS3.3, C.7.1.1)."""
NO_DATE, NO_TIME = "19000101", "000000"
"""What stands in place of a date that an object must have, when it is de-identified."""

_REQUIRED = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    "FrameOfReferenceUID",
)
_OFTEN_ABSENT = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""Attributes that must be there but may be empty (type 2); de-identified series lack some."""
_MOMENTS = ("PatientBirthDate", "StudyDate", "StudyTime")
_SEXES = ("M", "F", "O", "")
_KEPT = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("FrameOfReferenceUID", "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames"),
    *("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness"),
    *("SpacingBetweenSlices", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    *("BurnedInAnnotation", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""What a de-identified header keeps."""
_KEPT_GROUPS = (
    *("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence"),
    "PixelValueTransformationSequence",
)
"""Functional groups that a de-identified Enhanced header keeps."""


_UID = re.compile(r"(?<![\d.])[012](?:\.(?:0|[1-9]\d*)){4,}(?![\d.]*\d)")
"""A UID within a text; versions have fewer parts."""


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
            if name in header:
                kept[name] = header[name]
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(kept, name, self.uid(str(header[name].value)))
        kept.FrameOfReferenceUID = self.uid(str(header.FrameOfReferenceUID))
        # Archives put objects without an ID away where nobody finds them.
        pseudonym = self.uid(str(header.get("PatientID", ""))).rpartition(".")[2][:12]
        kept.PatientID, kept.PatientName = pseudonym, f"DEIDENTIFIED^{pseudonym}"
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            for group in kept.get(name, ()):
                for element in [e for e in group if e.keyword not in _KEPT_GROUPS]:
                    del group[element.tag]
        return kept


@dataclass(frozen=True)
class SourceHeaders:
    """The headers of one CT series.

    Attributes:
        files: a header for each file; those of a classic series in the order of its slices.
        series: the series that they belong to.
        deidentified: whether they hold nothing of the patient.
    """

    files: tuple[Any, ...]
    series: Series
    deidentified: bool

    @property
    def first(self) -> Any:
        """The header that stands for patient, study and series."""
        return self.files[0]

    def of_slice(self, k: int) -> Any:
        """Return the header of the file that holds slice ``k`` along the series' normal."""
        return self.files[k]

    def reference(self, k: int) -> tuple[Any, tuple[int, ...]]:
        """Return that header and the numbers of the slice's frames, none in a classic series."""
        return self.of_slice(k), ()


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
        CaseRefused: see :func:`monai_vfx.dicom.reading.read_series`.
    """
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    series = read_series(Path(image), series_uid)
    headers = []
    with Files() as files, disable_value_validation():
        for source in series.sources:
            with files.open(source) as stream:
                header = dcmread(stream, stop_before_pixels=True)
            absent = [name for name in _REQUIRED if not header.get(name)]
            if absent:
                raise NotDerivable(f"the CT's headers lack {', '.join(absent)}")
            headers.append(_filled(_decoded(header) if hide is None else hide.header(header)))
    return SourceHeaders(tuple(headers), series, hide is not None)


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
