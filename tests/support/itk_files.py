"""NRRD and MetaImage files, and DICOM series, as ITK writes and reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np

UPRIGHT = np.diag([-1.0, -1.0, 1.0])
"""Axes of a RAS+ grid in ITK's LPS."""


def write_itk(
    path: Path,
    voxels: np.ndarray,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    direction: np.ndarray | None = None,
    compress: bool = False,
    keys: Mapping[str, str] | None = None,
) -> Path:
    """Write voxels (i, j, k), or (i, j, k, values); the geometry is in LPS."""
    axes = (2, 1, 0, *range(3, voxels.ndim))
    kind = itk.VectorImage[itk.UC, 3] if voxels.ndim == 4 else None
    image = itk.image_from_array(np.ascontiguousarray(voxels.transpose(axes)), ttype=kind)
    image.SetSpacing([float(x) for x in spacing])
    image.SetOrigin([float(x) for x in origin])
    image.SetDirection(itk.matrix_from_array(np.eye(3) if direction is None else direction))
    for key, value in (keys or {}).items():
        image[key] = value
    itk.imwrite(image, str(path), compression=compress)
    return path


def convert(source: Path, target: Path) -> Path:
    """Write an image file in another format."""
    itk.imwrite(itk.imread(str(source)), str(target))
    return target


def read_series(files: Path | Sequence[Path]) -> Any:
    """Return the image of a DICOM series: a folder's, sorted by GDCM, or files in order."""
    if isinstance(files, Path):
        names = itk.GDCMSeriesFileNames.New()
        names.SetDirectory(str(files))
        return itk.imread(list(names.GetInputFileNames()))
    return itk.imread([str(file) for file in files])
