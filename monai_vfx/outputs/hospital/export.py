"""Write all objects of one prediction for a hospital's systems.

>>> check_export(("fhir",), "ct.nii.gz")
>>> check_export(("dicom",), "ct.nii.gz")
Traceback (most recent call last):
...
monai_vfx.core.errors.SettingError: export (dicom) needs a DICOM series: its objects belong to ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from monai_vfx.core.arrays import LabelVolume
from monai_vfx.core.errors import CaseWarning, SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.results import Prediction
from monai_vfx.io.volume import is_dicom
from monai_vfx.outputs.hospital.dicom_headers import (
    Deidentifier,
    NotDerivable,
    SourceHeaders,
    source_headers,
)
from monai_vfx.outputs.hospital.dicom_seg import write_segmentation
from monai_vfx.outputs.hospital.fhir import RISK_ASSESSMENT, risk_assessment
from monai_vfx.outputs.hospital.images import CAPTURE, HEAT, write_capture, write_heat_map
from monai_vfx.outputs.hospital.structured_report import REPORT, write_report

EXPORTS = ("dicom", "fhir")
MASK = "mask.dcm"
OBJECTS = (MASK, CAPTURE, HEAT, REPORT)
"""Files of an export for a PACS."""
FILES = (*OBJECTS, RISK_ASSESSMENT)
"""Files of an export."""


def check_export(kinds: Sequence[str], image: str | PathLike[str]) -> None:
    """Check that the kinds of export can be written of this input; nothing is read.

    Raises:
        SettingError: DICOM objects are requested of another format, or a kind is unknown.
    """
    unknown = [kind for kind in kinds if kind not in EXPORTS]
    if unknown:
        raise SettingError(f"export ({', '.join(unknown)}) must be one of {', '.join(EXPORTS)}")
    if "dicom" in kinds and not is_dicom(image):
        raise SettingError(
            "export (dicom) needs a DICOM series: its objects belong to a patient's study; got a "
            "NIfTI or NRRD file"
        )


class Export:
    """Writes the objects of one case.

    Args:
        kinds: some of :data:`EXPORTS`.
        image: the CT.
        series_uid: which series, where there are several.
        hide: removes the patient from all objects.

    Raises:
        SettingError: see :func:`check_export`.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        image: str | PathLike[str],
        series_uid: str | None = None,
        hide: Deidentifier | None = None,
    ) -> None:
        check_export(kinds, image)
        self.kinds = tuple(kinds)
        self.image, self.series_uid, self.hide = Path(image), series_uid, hide

    def write(
        self,
        folder: Path,
        prediction: Prediction,
        labels: LabelVolume,
        picture: Path,
        heat: Any | None = None,
    ) -> tuple[CaseWarning, ...]:
        """Write the requested objects.

        Nothing is written of a refused case: an empty report could be mistaken for a good one.

        Args:
            folder: folder of the files. An existing ``mask.dcm`` is that of the mask and is kept.
            prediction: the result, de-identified where the objects are.
            labels: (i, j, k) vertebral bodies that were used, on the CT's grid.
            picture: PNG of the montage.
            heat: (i, j, k) GradCAM on the CT's grid; None where nothing was explained.

        Returns:
            A warning for each object that the CT's headers do not allow.
        """
        if prediction.status != "ok" or not self.kinds:
            return ()
        headers = None
        lacks: list[CaseWarning] = []
        if is_dicom(self.image):
            try:
                headers = source_headers(self.image, self.series_uid, self.hide)
            except NotDerivable as error:
                lacks.append(_lack("DICOM object", error))
        if "dicom" in self.kinds and headers is not None:
            lacks += _write_dicom(folder, headers, prediction, labels, picture, heat)
        if "fhir" in self.kinds:
            header = None if headers is None else headers.first
            document = risk_assessment(prediction, header, deidentified=self.hide is not None)
            write_json(folder / RISK_ASSESSMENT, document)
        return tuple(lacks)


def _write_dicom(
    folder: Path,
    headers: SourceHeaders,
    prediction: Prediction,
    labels: LabelVolume,
    picture: Path,
    heat: Any | None,
) -> list[CaseWarning]:
    from pydicom import dcmread

    facts = json.dumps(prediction.to_json(), sort_keys=True)
    lacks = []

    def attempt(name: str, write: Callable[[], object]) -> None:
        try:
            write()
        except NotDerivable as error:
            lacks.append(_lack(name, error))

    if not (folder / MASK).exists():
        source = "unknown" if prediction.mask is None else prediction.mask["source"]
        made_by = f"monai_vfx, from the mask that was {source}"
        attempt(
            MASK,
            lambda: write_segmentation(
                folder / MASK, labels, headers, algorithm=made_by, given=source == "given"
            ),
        )
    attempt(CAPTURE, lambda: write_capture(folder, picture, headers, prediction, facts))
    if heat is not None and heat.any():
        attempt(HEAT, lambda: write_heat_map(folder, heat, headers, prediction, facts))
    mask = dcmread(folder / MASK) if (folder / MASK).exists() else None
    attempt(REPORT, lambda: write_report(folder, headers, prediction, facts, mask, labels))
    return lacks


def _lack(name: str, error: NotDerivable) -> CaseWarning:
    return CaseWarning("export_not_written", f"no {name}: {error}")
