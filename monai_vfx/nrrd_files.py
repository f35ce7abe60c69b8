"""A CT as NRRD or MetaImage: its text header read with care, its voxels a region at a time.

ITK reads both, but fills in what a header lacks; so the header is checked here first.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from monai_vfx.dicom.files import access_refused, reason
from monai_vfx.dicom.stack import LPS_TO_RAS
from monai_vfx.errors import CaseRefused
from monai_vfx.shapes import HUVolume, OpenedImage, Region
from monai_vfx.text_headers import (
    MATRICES,
    VECTORS,
    TextHeader,
    check_voxels_whole,
    missing_world,
    numbers,
    read_text_header,
    vectors,
)

NRRD_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Files read through SimpleITK."""
_ONE_VALUE_KINDS = ("domain", "space", "???", "none")


def open_nrrd(path: Path) -> OpenedImage:
    """Open a CT by its header.

    Raises:
        CaseRefused: with the code of the rule that the header breaks.
    """
    import SimpleITK as sitk  # noqa: N813 - the field's usual name

    header = _checked_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(header.image_io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CaseRefused("input_unreadable", "the file's header cannot be read") from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise CaseRefused("not_volume", f"the image has size {reader.GetSize()}")
    affine = np.eye(4)
    directions = np.array(reader.GetDirection()).reshape(3, 3)
    affine[:3, :3] = directions * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()

    def read(region: Region) -> HUVolume:
        _check_whole(header)
        reader.SetExtractIndex([axis.start for axis in region])
        reader.SetExtractSize([axis.stop - axis.start for axis in region])
        try:
            voxels = sitk.GetArrayFromImage(reader.Execute())  # (k, j, i)
        except RuntimeError as error:
            raise CaseRefused("file_truncated", "voxels cannot be read") from error
        return np.ascontiguousarray(voxels.T, dtype=np.float32)

    i, j, k = (int(n) for n in reader.GetSize())
    return (i, j, k), LPS_TO_RAS @ affine, read


def _checked_header(path: Path) -> TextHeader:
    """Refuse a header that is no CT's, or that ITK would stumble over."""
    header = read_text_header(path)
    lack = missing_world(header)
    if lack is not None:
        raise CaseRefused("geometry_missing", lack)
    if len(header.sizes) != 3:
        raise CaseRefused("not_volume", f"the header speaks of {len(header.sizes)} axes, not of 3")
    if header.meta:
        _check_meta(header.fields)
    else:
        _check_nrrd(header.fields)
    if not header.data.is_file():
        raise CaseRefused("file_missing", "the file of voxels that the header names is not there")
    if not header.packed:
        _check_whole(header)
    return header


def _check_whole(header: TextHeader) -> None:
    with access_refused():
        try:
            check_voxels_whole(header)
        except PermissionError:
            raise
        except (EOFError, OSError, zlib.error) as error:
            raise CaseRefused(
                "file_truncated", f"the voxels are cut or damaged ({reason(error)})"
            ) from error


def _check_meta(fields: dict[str, str]) -> None:
    if fields.get("elementnumberofchannels", "1") != "1":
        raise CaseRefused("not_volume", "voxels are not single numbers")
    for name in {*MATRICES, *VECTORS} & fields.keys():
        if not np.isfinite(numbers(fields[name])).all():
            raise CaseRefused("geometry_invalid", f"the header's field {name!r} is no numbers")
    for one_of in (("elementspacing", "elementsize"), ("offset", "position", "origin")):
        if not set(one_of) & set(fields):
            raise CaseRefused("geometry_missing", f"the header has no field {one_of[0]!r}")
    if "elementdatafile" not in fields:
        raise CaseRefused("file_truncated", "the header does not say where the voxels are")


def _check_nrrd(fields: dict[str, str]) -> None:
    kinds = fields.get("kinds", "").lower().split()
    if any(kind not in _ONE_VALUE_KINDS for kind in kinds):
        raise CaseRefused("not_volume", f"axes are of the kinds {', '.join(kinds)}")
    found = [*vectors(fields["space directions"]), *vectors(fields.get("space origin", ""))]
    if any(len(v) != 3 or not np.isfinite(v).all() for v in found):
        raise CaseRefused("geometry_invalid", "directions or origin are not three numbers each")
    if "space origin" not in fields:
        raise CaseRefused("geometry_missing", "the header has no field 'space origin'")
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if not units <= {"mm", ""}:
        raise CaseRefused("units_not_mm", "the header's 'space units' are not mm")
