"""What all DICOM objects share that are derived from a CT: identity, UIDs, origin, dates.

The patient's and the study's attributes are those of the CT. UIDs follow from the content: the same
result of the same series is the same object, another result is another one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.outputs.hospital.dicom_headers import (
    METHOD,
    NO_DATE,
    NO_TIME,
    UNICODE,
    NotDerivable,
    SourceHeaders,
)

MANUFACTURER = "monai_vfx"
SERIES_NUMBERS = {"mask": 9101, "capture": 9102, "gradcam": 9103, "report": 9104}
"""High, so that viewers list our series behind those of the scanner."""
RESEARCH = "not for clinical use"
"""Stands in every series description."""
_ALSO_COPIED = ("IssuerOfPatientID", "PatientAge", "StudyDescription")
_LOSSY = (*("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),)
_NOT_OURS = (AttributeError, KeyError, TypeError, ValueError)
"""What highdicom raises on a header that it cannot use; its text may name the patient."""


class Derivation:
    """One object to be derived from a CT.

    Args:
        kind: a key of :data:`SERIES_NUMBERS`.
        headers: of the CT.
        description: of the series, at most 64 characters.
        content: whatever makes this result another one than the next.
    """

    def __init__(
        self, kind: str, headers: SourceHeaders, description: str, content: Sequence[str | bytes]
    ) -> None:
        from pydicom.uid import generate_uid

        self.kind, self.headers = kind, headers
        self.description = description
        digest = hashlib.sha256()
        for part in content:
            digest.update(
                hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest()
            )
        version = metadata.version("monai_vfx")
        series = str(headers.first.SeriesInstanceUID)
        self._seed = ["monai_vfx", kind, series, version, digest.hexdigest()]
        self._generate = generate_uid
        self.version = version

    def uid(self, role: str) -> str:
        """Return the UID of the object's ``series``, of the ``object``, or of a part of it."""
        return str(self._generate(entropy_srcs=[*self._seed, role]))

    def settings(self) -> dict[str, Any]:
        """Return the arguments that every class of highdicom takes."""
        dates = {"content_date": NO_DATE, "content_time": NO_TIME}
        return {
            "series_instance_uid": self.uid("series"),
            "series_number": SERIES_NUMBERS[self.kind],
            "sop_instance_uid": self.uid("object"),
            "instance_number": 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": "Five-year vertebral fracture risk",
            "software_versions": self.version,
            "device_serial_number": "none",
            "series_description": self.description,
            "specific_character_set": UNICODE,
            **(dates if self.headers.deidentified else {}),
        }

    def write(self, path: Path, make: Any, **settings: Any) -> Any:
        """Build the object, complete what highdicom leaves open, and write it.

        Args:
            path: of the file.
            make: class of highdicom, or what builds one.
            **settings: for it, over :meth:`settings`.

        Returns:
            The object.

        Raises:
            NotDerivable: the CT's headers lack what the object needs.
        """
        from pydicom.config import disable_value_validation

        with disable_value_validation(), warnings.catch_warnings():
            # The remark on a name of one part holds the name.
            warnings.filterwarnings("ignore", ".*the intended person name", UserWarning)
            try:
                made = make(**{**self.settings(), **settings})
            except _NOT_OURS as error:
                raise NotDerivable(
                    f"the CT's headers do not fit ({type(error).__name__})"
                ) from error
            self._complete(made)
            partial = path.with_name(path.name + ".partial")
            made.save_as(partial, enforce_file_format=True)
        partial.replace(path)
        return made

    def _step(self) -> str:
        """Return the distance of slices in mm: the thickness of frames that lie wall to wall."""
        from pydicom.valuerep import format_number_as_ds

        step = float(np.linalg.norm(self.headers.series.affine[:3, 2]))
        return format_number_as_ds(round(step, 6))

    def _complete(self, made: Any) -> None:
        self.headers.restore(made)
        first = self.headers.first
        also = list(_ALSO_COPIED)
        if "PixelData" in made or "FloatPixelData" in made:
            made.BodyPartExamined = "TLSPINE"
            also += _LOSSY  # what came from pixels once compressed with loss says so for good
        for name in also:
            if first.get(name):
                made[name] = first[name]
        for group in made.get("SharedFunctionalGroupsSequence", ()):
            for measures in group.get("PixelMeasuresSequence", ()):
                if measures.get("SliceThickness") is None:  # the CT states none
                    measures.SliceThickness = self._step()
        if self.headers.deidentified:
            _hide_moment(made)


def _hide_moment(made: Any) -> None:
    """Say that the patient was taken out, and take out when the object was made."""
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = list(METHOD)
    made.LongitudinalTemporalInformationModified = "REMOVED"
    nothing = {"DA": NO_DATE, "TM": NO_TIME, "DT": NO_DATE + NO_TIME}

    def hide(_: Any, element: Any) -> None:
        if element.VR in nothing and element.value:
            element.value = nothing[element.VR]

    made.walk(hide)


def source_item(header: Any) -> Any:
    """Return an item that names one image of the CT as what an object was computed from."""
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
