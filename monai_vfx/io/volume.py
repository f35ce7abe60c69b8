"""One checked CT: its geometry from the headers, its voxels a region at a time.

>>> from monai_vfx.io.volume import open_volume
>>> open_volume("nowhere")
Traceback (most recent call last):
...
monai_vfx.core.errors.CaseRefused: input_unreadable: nothing is found at this path. Give ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path

import numpy as np

from monai_vfx.core.arrays import Affine, HUVolume, Region
from monai_vfx.core.errors import CaseRefused, SettingError, access_refused
from monai_vfx.core.geometry import voxel_spacing
from monai_vfx.io.dicom.candidates import Candidate, SeriesRefused
from monai_vfx.io.dicom.reading import SeriesHeader, read_series
from monai_vfx.io.dicom.stack import MIN_SLICES
from monai_vfx.io.itk import NRRD_SUFFIXES, ItkFile
from monai_vfx.io.nifti import NIFTI_SUFFIXES, NiftiFile

MAX_TURN_DEG = 40.0
"""Beyond this angle it is not sure which axis is which."""
MAX_VOXELS = 4e9
"""A header that speaks of more is taken for a damaged one."""
MIN_SPACING_MM = 1e-3
"""Voxels nearer than this are no CT's."""
SKEW_TOLERANCE = 2e-3
"""Largest cosine between two axes: 0.15 mm over the length of T12-L4."""


@dataclass(frozen=True)
class Volume(SeriesHeader):
    """A CT that can be read a region at a time.

    Attributes:
        file_format: ``dicom``, ``nifti`` or ``nrrd``.
        shape: voxels along the file's axes (i, j, k).
        affine: (i, j, k) → mm, RAS+.
    """

    file_format: str
    shape: tuple[int, int, int]
    affine: Affine
    _read: Callable[[Region], HUVolume] = field(repr=False)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The CT series of the input, the chosen one first; none where the file is no DICOM."""
        return self.finding.candidates if self.finding is not None else ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along (i, j, k), mm."""
        i, j, k = voxel_spacing(self.affine)
        return float(i), float(j), float(k)

    @property
    def slice_axis(self) -> int:
        """The array axis that runs nearest to feet-head."""
        from nibabel.orientations import io_orientation

        return int(np.flatnonzero(io_orientation(self.affine)[:, 0] == 2)[0])

    @property
    def feet_first(self) -> bool:
        """Whether the index along :attr:`slice_axis` grows from the feet to the head."""
        return bool(self.affine[2, self.slice_axis] > 0)

    def index_from_feet(self, k: int) -> int:
        """Return the number of a slice counted from the feet, from its index along the axis."""
        return k if self.feet_first else self.shape[self.slice_axis] - 1 - k

    def read(self, region: Region | None = None) -> HUVolume:
        """Read voxels.

        Args:
            region: box of voxels; the whole volume by default.

        Returns:
            (i, j, k) float32 in HU, in the file's axis order.

        Raises:
            CaseRefused: ``file_truncated`` or ``not_hounsfield``.
        """
        box = region or (slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2]))
        hu = self._read(box)
        if not np.isfinite(hu).all():
            raise CaseRefused("not_hounsfield", "voxels are infinite or not a number")
        return hu


def open_volume(path: str | PathLike[str], series_uid: str | None = None) -> Volume:
    """Open a CT by its headers; no voxel is read.

    Args:
        path: a folder, zip or tar with DICOM files, a DICOMDIR, a DICOM file, NIfTI or NRRD.
        series_uid: SeriesInstanceUID to take; by default the rule of
            :mod:`monai_vfx.io.dicom.choosing` decides.

    Raises:
        CaseRefused: with the code of the rule that the file breaks.
        SettingError: when ``series_uid`` is given for a file that holds no series.
    """
    path = Path(path)
    name = path.name.lower()
    with access_refused():
        if not path.exists():
            raise CaseRefused("input_unreadable", "nothing is found at this path")
        if is_dicom(path):
            return _open_dicom(path, series_uid)
        if series_uid is not None:
            raise SettingError(
                f"series ({series_uid}) must be left out: only DICOM holds series, "
                "this is a NIfTI or NRRD file"
            )
        kind = NiftiFile if name.endswith(NIFTI_SUFFIXES) else ItkFile
        file = kind(path, "the CT", "input_unreadable")
        affine = file.check_ct()
        return _checked(Volume(file.kind, file.shape, affine, file.read_hu))


def is_dicom(path: str | PathLike[str]) -> bool:
    """Whether a path is read as DICOM: by its name, unless it is a folder.

    >>> is_dicom("series.zip"), is_dicom("ct.nii.gz")
    (True, False)
    """
    path = Path(path)
    return path.is_dir() or not path.name.lower().endswith(NIFTI_SUFFIXES + NRRD_SUFFIXES)


def _open_dicom(path: Path, series_uid: str | None) -> Volume:
    series = read_series(path, series_uid)
    stated = {item.name: getattr(series, item.name) for item in fields(SeriesHeader)}
    volume = Volume("dicom", series.shape, series.affine, series.read, **stated)
    try:
        return _checked(volume)
    except CaseRefused as refusal:
        if series.finding is None:
            raise
        raise SeriesRefused(refusal, series.finding) from refusal


def _checked(volume: Volume) -> Volume:
    """Check the geometry and return the volume with axes at exactly right angles."""
    spacing = np.array(volume.spacing_mm)
    if not np.isfinite(volume.affine).all() or spacing.min() < MIN_SPACING_MM:
        raise CaseRefused("geometry_invalid", f"voxel spacing is {spacing.tolist()} mm")
    cosines = volume.affine[:3, :3] / spacing
    skew = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if skew > SKEW_TOLERANCE:
        raise CaseRefused(
            "geometry_invalid",
            f"the axes are sheared (cosine {skew:.4f}, must be at most {SKEW_TOLERANCE})",
        )
    off = float(np.degrees(np.arccos(np.clip(np.abs(cosines).max(axis=0).min(), 0, 1))))
    if off > MAX_TURN_DEG:
        raise CaseRefused(
            "geometry_invalid",
            f"an image axis lies {off:.0f} degrees off the patient's nearest; must be at most "
            f"{MAX_TURN_DEG:.0f}",
        )
    if np.prod(volume.shape, dtype=float) > MAX_VOXELS:
        raise CaseRefused("geometry_invalid", f"the header speaks of {volume.shape} voxels")
    slices = volume.shape[volume.slice_axis]
    if slices < MIN_SLICES:
        raise CaseRefused("too_few_slices", f"{slices} slices, at least {MIN_SLICES} are needed")
    # Headers keep directions with 6 digits or so. Made orthonormal (the nearest such matrix, by
    # singular values), an oblique CT is resampled on the same grid as an upright one.
    left, _, right = np.linalg.svd(cosines)
    affine = volume.affine.copy()
    affine[:3, :3] = left @ right * spacing
    return replace(volume, affine=affine)
