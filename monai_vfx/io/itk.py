"""NRRD and MetaImage files by ITK, CT and masks alike; each header is checked before ITK sees it.

ITK fills in what a header lacks, and some damaged headers end the process. So
:mod:`monai_vfx.io.itk_headers` reads them first.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.core.arrays import Affine, HUVolume, Region
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import LPS_TO_RAS
from monai_vfx.io.dicom.values import number
from monai_vfx.io.image_file import three_axes, voxel_errors
from monai_vfx.io.itk_headers import check_voxels_whole, missing_world, read_text_header

NRRD_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Files read through ITK."""
_ONE_VALUE_KINDS = ("domain", "space", "???", "none")
_PLACES = (("elementspacing", "elementsize"), ("offset", "position", "origin"))
_PIXELS = {"u1": "UC", "i1": "SS", "u2": "US", "i2": "SS", "u4": "UI", "i4": "SI", "f4": "F"}
"""Type of the file's voxels → ITK's name of one that holds each value; ``D`` for all others."""


class ItkFile:
    """A NRRD or MetaImage file whose header says where its voxels lie.

    Args:
        path: of the header.
        subject: how messages call the file; never by its name, which may be a patient's.
        unreadable: refusal code for what is no such file.

    Raises:
        CaseRefused: ``file_missing``, ``geometry_missing`` or the code ``unreadable``.
    """

    kind = "nrrd"

    def __init__(self, path: Path, subject: str, unreadable: str) -> None:
        self._path, self._subject, self._unreadable = path, subject, unreadable
        try:
            self._header = read_text_header(path)
        except FileNotFoundError as error:
            raise CaseRefused(
                "file_missing", f"{subject}: the file of voxels that the header names is missing"
            ) from error
        except ValueError as error:
            raise CaseRefused(unreadable, f"{subject}: {error}") from error
        lack = missing_world(self._header)
        if lack is not None:
            raise CaseRefused("geometry_missing", f"{subject}: {lack}")

    def names(self) -> dict[int, str]:
        """Return the label names that a 3D Slicer segmentation's header holds."""
        return names_of_segments(self._header.keys)

    @cached_property
    def _image_io(self) -> Any:
        """ITK's own view of the header."""
        image_io = getattr(_itk(), "MetaImageIO" if self._header.meta else "NrrdImageIO").New()
        image_io.SetFileName(str(self._path))
        try:
            image_io.ReadImageInformation()
        except RuntimeError as error:
            raise CaseRefused(
                self._unreadable, f"{self._subject}: the header cannot be read"
            ) from error
        return image_io

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k)."""
        layers = self._image_io.GetNumberOfComponents()
        if layers != 1:
            raise CaseRefused(
                "not_volume",
                f"{self._subject} holds {layers} values a voxel; save a segmentation with "
                "segments that do not overlap",
            )
        axes = range(self._image_io.GetNumberOfDimensions())
        return three_axes(self._subject, [self._image_io.GetDimensions(n) for n in axes])

    @cached_property
    def affine(self) -> Affine:
        """(4, 4): index of the first three axes → world mm, RAS+."""
        affine = np.eye(4)
        for axis in range(3):
            direction = np.array(self._image_io.GetDirection(axis))[:3]
            affine[:3, axis] = direction * self._image_io.GetSpacing(axis)
            affine[axis, 3] = self._image_io.GetOrigin(axis)
        return LPS_TO_RAS @ affine

    def check_ct(self) -> Affine:
        """Refuse a header that is no CT's; return the affine.

        Raises:
            CaseRefused: ``not_volume``, ``geometry_missing``, ``geometry_invalid`` or
                ``units_not_mm``.
        """
        sizes, fields = self._header.sizes, self._header.fields
        if len(sizes) != 3:
            raise CaseRefused("not_volume", f"the header states {len(sizes)} axes, not 3")
        if not self._header.meta:
            _check_nrrd(fields)
            return self.affine
        for one_of in _PLACES:
            if not set(one_of) & set(fields):
                raise CaseRefused("geometry_missing", f"the header has no field {one_of[0]!r}")
        return self.affine

    def read_hu(self, region: Region) -> HUVolume:
        """Read a box of voxels."""
        return np.ascontiguousarray(self._voxels(region), dtype=np.float32)

    def slabs(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield (0, (i, j, k)): all voxels at once."""
        i, j, k = self.shape
        yield 0, self._voxels((slice(0, i), slice(0, j), slice(0, k)))

    def _voxels(self, region: Region) -> npt.NDArray[Any]:
        """Return a box (i, j, k) of the file's values."""
        itk = _itk()
        with voxel_errors(self._subject, self._unreadable):
            surplus = check_voxels_whole(self._header)
            if surplus is not None:
                raise CaseRefused("file_truncated", f"{self._subject}: {surplus}")
            pixel = getattr(itk, _PIXELS.get(self._header.voxel_type, "D"))
            reader = itk.ImageFileReader[itk.Image[pixel, 3]].New()
            reader.SetImageIO(self._image_io)
            reader.SetFileName(str(self._path))
            reader.Update()  # reads all of it: regions of a MetaImage come out wrong
            return np.array(itk.array_view_from_image(reader.GetOutput()).T[region])


@cache
def _itk() -> Any:
    """Return ITK, all that is used of it loaded: that takes seconds.

    Its own warnings are off, as they name paths.
    """
    import itk

    with warnings.catch_warnings():
        # Where Python's remark about ITK's types is an error, loading ends the process.
        warnings.filterwarnings("ignore", "builtin type", DeprecationWarning)
        _ = itk.ImageFileReader, itk.NrrdImageIO, itk.MetaImageIO, itk.array_view_from_image
    itk.Object.GlobalWarningDisplayOff()
    return itk


def names_of_segments(keys: dict[str, str]) -> dict[int, str]:
    """Return the label names of a 3D Slicer segmentation's header.

    >>> names_of_segments({"Segment0_Name": "L1", "Segment0_LabelValue": "20", "space": "RAS"})
    {20: 'L1'}
    """
    names = {}
    for key, value in keys.items():
        segment = re.fullmatch(r"(Segment\d+)_LabelValue", key)
        if segment and value.strip().isdecimal():
            names[int(value)] = keys.get(f"{segment.group(1)}_Name", "").strip()
    return names


def _check_nrrd(fields: dict[str, str]) -> None:
    """Refuse fields of a NRRD that are no CT's."""
    kinds = fields.get("kinds", "").lower().split()
    if any(kind not in _ONE_VALUE_KINDS for kind in kinds):
        raise CaseRefused("not_volume", f"axes are of the kinds {', '.join(kinds)}")
    if "space origin" not in fields:
        raise CaseRefused("geometry_missing", "the header has no field 'space origin'")
    vectors = [*_vectors(fields["space directions"]), *_vectors(fields["space origin"])]
    if any(len(v) != 3 or not np.isfinite(v).all() for v in vectors):
        raise CaseRefused("geometry_invalid", "directions or origin are not three numbers each")
    if len(vectors) != 4:
        text = f"'space directions' gives {len(vectors) - 1} axes a direction, not 3"
        raise CaseRefused("geometry_missing", text)
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if not units <= {"mm", ""}:
        raise CaseRefused("units_not_mm", "the header's 'space units' are not mm")


def _vectors(text: str) -> list[list[float]]:
    """Return the vectors of a NRRD field; an axis without one (``none``) is left out.

    >>> _vectors("none (1,0,0) (0, 2.5,x)")
    [[1.0, 0.0, 0.0], [0.0, 2.5, nan]]
    """
    return [
        [number(part) for part in inner.replace(",", " ").split()]
        for inner in re.findall(r"\(([^)]*)\)", text)
    ]
