"""What is written of a mask that is made: a label map that names its numbers, and a document."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_vfx.core.anatomy import LEVEL_NAMES, MUSCLES
from monai_vfx.core.arrays import Affine, Json, LabelVolume
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.files import writing
from monai_vfx.core.geometry import LPS

if TYPE_CHECKING:
    from monai_vfx.vertebrae.segmentation.result import VertebraSegmentation


def write_label_map(path: Path, labels: LabelVolume, affine: Affine) -> None:
    """Write a label map as NIfTI that says itself what its numbers mean.

    Args:
        path: ending in ``.nii.gz``.
        labels: (i, j, k) vertebrae under VerSe numbers and the muscles of :mod:`anatomy`.
        affine: (4, 4) index → mm, RAS+.
    """
    import nibabel as nib

    known = {**LEVEL_NAMES, **{value: name for name, value in MUSCLES.items()}}
    present = [int(value) for value in np.unique(labels) if int(value) in known]
    names = {v: f"vertebrae_{known[v]}" if v in LEVEL_NAMES else known[v] for v in present}
    entries = "".join(f'<Label Key="{v}"><![CDATA[{name}]]></Label>' for v, name in names.items())
    table = f"<CaretExtension><VolumeInformation><LabelTable>{entries}</LabelTable></VolumeInformation></CaretExtension>"  # noqa: E501 - one text
    image: Any = nib.Nifti1Image(np.ascontiguousarray(labels, dtype=np.uint8), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode("utf-8")))
    with writing(path) as partial:
        nib.save(image, partial)


def segmentation_document(found: VertebraSegmentation) -> Json:
    """Return what ``segmentation.json`` holds (``data_schemas/segmentation.schema.json``)."""
    return {
        "status": "ok",
        "confidence": round(found.confidence, 4),
        "threshold": found.threshold,
        "levels": [
            {
                "name": level.name,
                "probability": round(level.probability, 4),
                "centre_mm": [round(float(v), 2) + 0.0 for v in level.centre_mm * LPS],
                "height_mm": round(level.height_mm, 1),
                "depth_mm": round(level.depth_mm, 1),
                "width_mm": round(level.width_mm, 1),
                "volume_ml": round(level.volume_ml, 2),
                "ribs": {
                    side: round(p, 3) for side, p in zip(("right", "left"), level.ribs, strict=True)
                },
                "complete": level.complete,
            }
            for level in found.levels
        ],
        "evidence": found.evidence,
        "weights_sha256": dict(found.weights_sha256),
        "seconds": {name: round(float(value), 2) for name, value in found.seconds.items()},
        "warnings": [asdict(warning) for warning in found.warnings],
        "refusal": None,
    }


def refused_segmentation(refusal: CaseRefused) -> Json:
    """Return the document of a CT whose vertebrae are not named."""
    return {
        "status": "refused",
        "confidence": None,
        "threshold": None,
        "levels": [],
        "evidence": None,
        "weights_sha256": None,
        "seconds": {},
        "warnings": [],
        "refusal": refusal.to_json(),
    }
