"""A label map of the project's own as NIfTI, with the names of its numbers in the header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.core.anatomy import LEVEL_NAMES, MUSCLES
from monai_vfx.core.arrays import Affine, LabelVolume


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
    picture: Any = nib.Nifti1Image(np.ascontiguousarray(labels, dtype=np.uint8), affine)
    picture.set_sform(affine, code=1)
    picture.set_qform(affine, code=1)
    picture.header.set_xyzt_units("mm")
    picture.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode("utf-8")))
    partial = path.with_name(f"partial_{path.name}")
    nib.save(picture, partial)
    partial.replace(path)
