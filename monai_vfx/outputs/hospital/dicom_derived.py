"""Write DICOM objects derived from a CT: the identity, UIDs, origin and dates that all share.

The patient's and the study's attributes are those of the CT. UIDs are computed from the content:
the same result of the same series is the same object, another result is another one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.core.files import writing
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
"""High, so that viewers list these series after those of the scanner."""
RESEARCH = "not for clinical use"
"""Part of every series description."""
_ALSO_COPIED = ("IssuerOfPatientID", "PatientAge", "StudyDescription")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


class Derivation:
    """An object to be derived from a CT.

    Args:
        kind: a key of :data:`SERIES_NUMBERS`.
        headers: headers of the CT.
        description: description of the series, at most 64 characters.
        content: all that distinguishes this result from others.
    """

    def __init__(
        self, kind: str, headers: SourceHeaders, description: str, content: Sequence[str | bytes]
    ) -> None:
        self.kind, self.headers, self.description = kind, headers, description
        digest = hashlib.sha256()
        for part in content:
            digest.update(
                hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest()
            )
        self.version = metadata.version("monai_vfx")
        series = str(headers.first.SeriesInstanceUID)
        self._seed = ["monai_vfx", kind, series, self.version, digest.hexdigest()]

    def uid(self, role: str) -> str:
        """Return the UID of the object's ``series``, of the ``object``, or of a part of it."""
        from pydicom.uid import generate_uid

        return str(generate_uid(entropy_srcs=[*self._seed, role]))

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
        """Build, complete, write and return the object.

        Args:
            path: path of the file.
            make: class of highdicom, or a function that builds one.
            **settings: arguments of it beside those of :meth:`settings`.

        Raises:
            NotDerivable: the CT's headers lack what the object needs.
        """
        from pydicom.config import disable_value_validation

        with disable_value_validation(), warnings.catch_warnings():
            # The warning about a name of one component holds the name.
            warnings.filterwarnings("ignore", ".*the intended person name", UserWarning)
            try:
                made = make(**{**self.settings(), **settings})
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                # From highdicom, about a header that it cannot use; its text may name the patient.
                reason = f"the CT's headers do not fit ({type(error).__name__})"
                raise NotDerivable(reason) from error
            self._complete(made)
            with writing(path) as partial:
                made.save_as(partial, enforce_file_format=True)
        return made

    def _complete(self, made: Any) -> None:
        """Add what highdicom leaves out."""
        from pydicom.valuerep import format_number_as_ds

        self.headers.restore(made)
        first = self.headers.first
        also = list(_ALSO_COPIED)
        if "PixelData" in made or "FloatPixelData" in made:
            made.BodyPartExamined = "TLSPINE"
            also += _LOSSY  # derived from pixels that were once compressed with loss
        for name in also:
            if first.get(name):
                made[name] = first[name]
        step = float(np.linalg.norm(self.headers.series.affine[:3, 2]))
        for group in made.get("SharedFunctionalGroupsSequence", ()):
            for measures in group.get("PixelMeasuresSequence", ()):
                if measures.get("SliceThickness") is None:  # the CT states none: contiguous frames
                    measures.SliceThickness = format_number_as_ds(round(step, 6))
        if self.headers.deidentified:
            _hide_moment(made)


def _hide_moment(made: Any) -> None:
    """State that the object is de-identified, and remove the time of its making."""
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = list(METHOD)
    made.LongitudinalTemporalInformationModified = "REMOVED"
    nothing = {"DA": NO_DATE, "TM": NO_TIME, "DT": NO_DATE + NO_TIME}

    def hide(_: Any, element: Any) -> None:
        if element.VR in nothing and element.value:
            element.value = nothing[element.VR]

    made.walk(hide)


def source_item(header: Any) -> Any:
    """Return an item that references an image of the CT as the source of an object."""
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(purpose)]
    return item
