"""The result as a DICOM Structured Report of measurements (TID 1500)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import LabelVolume
from monai_vfx.core.results import Prediction
from monai_vfx.outputs.hospital.dicom_derived import MANUFACTURER, RESEARCH, Derivation
from monai_vfx.outputs.hospital.dicom_headers import SourceHeaders
from monai_vfx.outputs.hospital.dicom_seg import vertebra_code
from monai_vfx.outputs.hospital.images import used_slices
from monai_vfx.outputs.hospital.terms import (
    RISK,
    SCHEME,
    SCHEME_NAME,
    SCHEME_UID,
    SCORE,
    short_standing,
    statements,
)

REPORT = "report.dcm"
_QUALITATIVE_EVALUATIONS = ("C0034375", "UMLS", "Qualitative Evaluations")
_LIBRARY_NEEDS = ("PixelSpacing", "ImagePositionPatient", "SliceThickness")
"""What an image must state at its top level to stand in the image library (TID 1604)."""


def write_report(
    folder: Path,
    headers: SourceHeaders,
    prediction: Prediction,
    facts: str,
    mask: Any | None,
    labels: LabelVolume,
) -> Any:
    """Write the result as a Comprehensive SR (DICOM PS3.16, TID 1500); return the object.

    Args:
        folder: for ``report.dcm``.
        headers: of the CT.
        prediction: an accepted one.
        facts: the prediction as text, so that another one is another object.
        mask: the DICOM SEG of the labels; None where there is none.
        labels: (i, j, k) vertebral bodies on the CT's grid.

    Raises:
        NotDerivable: the CT's headers do not allow it.
        ValueError: a refused case: it has no result that could be reported.
    """
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    if prediction.status != "ok":
        raise ValueError("a refused case has no report")
    seen = {str(mask.SOPInstanceUID)} if mask is not None else set()
    description = f"{short_standing(prediction)} fracture risk report, {RESEARCH}"
    derivation = Derivation("report", headers, description, (facts, *sorted(seen)))
    slices = used_slices(prediction, headers)
    evidence = [headers.slices[k] for k in slices]

    def make(**settings: Any) -> Any:
        content = _content(derivation, prediction, slices, mask, labels)
        made = hd.sr.ComprehensiveSR(
            evidence=[*evidence, *([] if mask is None else [mask])],
            content=content[0],
            is_complete=True,
            is_final=False,  # nobody has read it
            is_verified=False,
            coding_schemes=[
                CodingSchemeIdentificationItem(SCHEME, name=SCHEME_NAME, uid=SCHEME_UID)
            ],
            **settings,
        )
        return made

    return derivation.write(folder / REPORT, make)


def _content(
    derivation: Derivation,
    prediction: Prediction,
    slices: list[int],
    mask: Any | None,
    labels: LabelVolume,
) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    headers = derivation.headers
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=["monai_vfx", "device", derivation.version]),
        name="monai_vfx",
        manufacturer_name=MANUFACTURER,
        model_name=f"monai_vfx {derivation.version}",
    )
    files = [headers.slices[k] for k in slices]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[
            _risk_group(derivation, prediction, slices),
            *([] if mask is None else _level_groups(derivation, prediction, mask, labels)),
        ],
        referenced_images=(
            files if all(f.get(name) for f in files for name in _LIBRARY_NEEDS) else None
        ),
    )
    words = sr.ContainerContentItem(
        sr.CodedConcept(*_QUALITATIVE_EVALUATIONS), relationship_type="CONTAINS"
    )
    words.ContentSequence = sr.ContentSequence(
        [
            sr.TextContentItem(name, text, relationship_type="CONTAINS")
            for name, text in statements(prediction)
        ]
    )
    report[0].ContentSequence.append(words)
    return report


def _risk_group(derivation: Derivation, prediction: Prediction, slices: list[int]) -> Any:
    """Return the group (TID 1501) of the score and the risk, measured on T12-L4 as a whole."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    unit = codes.UCUM.NoUnits
    measurements = [sr.Measurement(SCORE, float(prediction.score or 0.0), unit)]
    if prediction.risk_5y is not None:
        properties = None
        if prediction.risk_5y_interval is not None:
            low, high = prediction.risk_5y_interval
            properties = sr.MeasurementProperties(
                upper_measurement_uncertainty=round(high - prediction.risk_5y, 9),
                lower_measurement_uncertainty=round(prediction.risk_5y - low, 9),
            )
        measurements.append(sr.Measurement(RISK, prediction.risk_5y, unit, properties=properties))
    files = [derivation.headers.slices[k] for k in slices]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(derivation.uid("risk"), "spine T12-L4"),
        algorithm_id=_algorithm(prediction),
        finding_sites=[
            sr.FindingSite(sr.CodedConcept(*vertebra_code(level))) for level in prediction.levels
        ],
        measurements=measurements,
        source_images=[
            sr.SourceImageForMeasurementGroup(file.SOPClassUID, file.SOPInstanceUID)
            for file in files
        ],
    )


def _algorithm(prediction: Prediction) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    model = prediction.model
    if model is None:
        raise ValueError("a result without its model has no report")
    members = model.members or (model.weights_sha256,)
    trained = "simulated patients" if prediction.simulated_weights else "patients"
    return sr.AlgorithmIdentification(
        name=model.bundle,
        version=model.version,
        parameters=[*(f"weights sha256:{member}" for member in members), f"trained on {trained}"],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )


def _level_groups(
    derivation: Derivation, prediction: Prediction, mask: Any, labels: LabelVolume
) -> list[Any]:
    """Return a group (TID 1411) for each body of T12-L4: its segment and its volume."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    segments = {str(s.SegmentLabel): int(s.SegmentNumber) for s in mask.SegmentSequence}
    volumes = _volumes_mm3(labels, derivation)
    series = str(derivation.headers.first.SeriesInstanceUID)
    return [
        sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                derivation.uid(f"body {level}"), f"vertebral body {level}"
            ),
            referenced_segment=sr.ReferencedSegment(
                mask.SOPClassUID,
                mask.SOPInstanceUID,
                segments[level],
                source_series=sr.SourceSeriesForSegmentation(series),
            ),
            finding_sites=[sr.FindingSite(sr.CodedConcept(*vertebra_code(level)))],
            measurements=[
                sr.Measurement(codes.SCT.Volume, volumes[level], codes.UCUM.CubicMillimeter)
            ],
        )
        for level in LEVELS
        if level in segments and level in volumes
    ]


def _volumes_mm3(labels: LabelVolume, derivation: Derivation) -> Mapping[str, float]:
    voxel = abs(float(np.linalg.det(derivation.headers.series.affine[:3, :3])))
    counts = np.bincount(labels.ravel(), minlength=256)
    return {
        level: round(float(counts[VERTEBRAE[level]]) * voxel, 1)
        for level in LEVELS
        if counts[VERTEBRAE[level]]
    }
