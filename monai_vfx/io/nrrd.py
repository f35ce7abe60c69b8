"""A CT as NRRD or MetaImage: what its header must say, and its voxels a region at a time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from monai_vfx.core.arrays import HUVolume, OpenedImage, Region
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.itk import ItkFile, affine_of
from monai_vfx.io.itk_headers import TextHeader

NRRD_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Files read through SimpleITK."""
_ONE_VALUE_KINDS = ("domain", "space", "???", "none")
_PLACES = (("elementspacing", "elementsize"), ("offset", "position", "origin"))


def open_nrrd(path: Path) -> OpenedImage:
    """Open a CT by its header.

    Raises:
        CaseRefused: with the code of the rule that the header breaks.
    """
    file = ItkFile.of(path, "the CT", "input_unreadable")
    _check_header(file.header)
    reader = file.open()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise CaseRefused("not_volume", f"the image has size {reader.GetSize()}")

    def read(region: Region) -> HUVolume:
        return np.ascontiguousarray(file.read(reader, region).T, dtype=np.float32)

    i, j, k = (int(n) for n in reader.GetSize())
    return (i, j, k), affine_of(reader), read


def _check_header(header: TextHeader) -> None:
    """Refuse a header that is no CT's."""
    if len(header.sizes) != 3:
        raise CaseRefused("not_volume", f"the header speaks of {len(header.sizes)} axes, not of 3")
    fields = header.fields
    if not header.meta:
        _check_nrrd(fields)
        return
    for one_of in _PLACES:
        if not set(one_of) & set(fields):
            raise CaseRefused("geometry_missing", f"the header has no field {one_of[0]!r}")


def _check_nrrd(fields: dict[str, str]) -> None:
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
        [_number(part) for part in inner.replace(",", " ").split()]
        for inner in re.findall(r"\(([^)]*)\)", text)
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
