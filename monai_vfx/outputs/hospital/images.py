"""The montage as Secondary Capture and the GradCAM heat as Parametric Map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.core.results import Prediction
from monai_vfx.outputs.hospital.dicom_derived import RESEARCH, Derivation, source_item
from monai_vfx.outputs.hospital.dicom_headers import SourceHeaders
from monai_vfx.outputs.hospital.terms import short_standing, standing

CAPTURE, HEAT = "capture.dcm", "gradcam.dcm"


def write_capture(
    folder: Path, picture: Path, headers: SourceHeaders, prediction: Prediction, facts: str
) -> Any:
    """Write the montage as an RGB Secondary Capture (DICOM PS3.3, A.8.1); return the object.

    Args:
        folder: for ``capture.dcm``.
        picture: the PNG. It holds levels, slice numbers and the score, but nothing that tells who
            the patient is.
        headers: of the CT.
        prediction: that the montage belongs to.
        facts: the prediction as text, so that another one is another object.

    Raises:
        NotDerivable: the CT's headers do not allow it.
    """
    import highdicom as hd
    from matplotlib.image import imread

    pixels = np.rint(imread(picture)[..., :3] * 255).astype(np.uint8)
    description = f"{short_standing(prediction)} T12-L4 montage, {RESEARCH}"
    derivation = Derivation("capture", headers, description, (pixels.tobytes(), facts))

    def make(**settings: Any) -> Any:
        made = hd.sc.SCImage.from_ref_dataset(
            ref_dataset=headers.first,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),  # of each tile: rows to the left, columns to the back
            **settings,
        )
        made.ConversionType = "WSD"
        made.DerivationDescription = (
            f"Slices that the network saw, T12 to L4. {standing(prediction)}"
        )
        made.ImageComments = standing(prediction)
        # "Burned in" means: enough to tell the patient (PS3.3, C.7.6.1). A CT may have that itself.
        burned = any(header.get("BurnedInAnnotation") == "YES" for header in headers.slices)
        made.BurnedInAnnotation = "YES" if burned else "NO"
        made.SourceImageSequence = [
            source_item(headers.slices[k]) for k in used_slices(prediction, headers)
        ]
        return made

    return derivation.write(folder / CAPTURE, make)


def write_heat_map(
    folder: Path,
    heat: npt.NDArray[np.float32],
    headers: SourceHeaders,
    prediction: Prediction,
    facts: str,
) -> Any:
    """Write GradCAM's heat as a Parametric Map (DICOM PS3.3, A.75); return the object.

    Only slices with heat become frames; all others are zero.

    Args:
        folder: for ``gradcam.dcm``.
        heat: (i, j, k) in [0, 1] on the CT's grid: columns, rows, slices along the normal.
        headers: of the CT.
        prediction: that the heat explains.
        facts: the prediction as text, so that another one is another object.

    Raises:
        NotDerivable: the CT's headers do not allow it.
        ValueError: a heat of another shape than the CT, or zero everywhere.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if heat.shape != headers.series.shape:
        raise ValueError(f"heat: {heat.shape} voxels; the CT has {headers.series.shape}")
    warm = np.flatnonzero(heat.any(axis=(0, 1)))
    if not warm.size:
        raise ValueError("heat: it is zero everywhere")
    frames = np.ascontiguousarray(heat[:, :, warm].T, dtype=np.float32)  # (slices, rows, columns)
    description = f"{short_standing(prediction)} GradCAM heat, {RESEARCH}"
    derivation = Derivation("gradcam", headers, description, (frames.tobytes(), facts))
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="GRADCAM",
        lut_explanation="Share of the patient's largest heat",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.DCM.GradientWeightedClassActivation,
    )
    return derivation.write(
        folder / HEAT,
        hd.pm.ParametricMap,
        source_images=[headers.slices[int(k)] for k in warm],
        pixel_array=frames,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label="GRADCAM",
        content_description="Where the network's score comes from",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
    )


def used_slices(prediction: Prediction, headers: SourceHeaders) -> list[int]:
    """Return the slices that the network saw, each once, counted along the series' normal.

    Of a sagittal or coronal series each slice has its part in the axial ones that the network saw.
    """
    count = headers.series.shape[2]
    upward = headers.series.affine[2, :3]
    if abs(upward[2]) < np.abs(upward[:2]).max():
        return list(range(count))
    numbers = dict.fromkeys(record.index for record in prediction.slices)
    return [number if upward[2] > 0 else count - 1 - number for number in numbers]
