"""A CT as NRRD or MetaImage: its text header read with care, its voxels a region at a time.

ITK reads both, but fills in what a header lacks, and its MetaImage reader writes to the process's
own error stream or ends the process when a header is damaged. So the header is checked here first.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from monai_vfx.dicom.files import access_refused
from monai_vfx.dicom.stack import LPS_TO_RAS
from monai_vfx.errors import CaseRefused
from monai_vfx.shapes import HUVolume, OpenedImage, Region

NRRD_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Files read through SimpleITK."""
META_SUFFIXES = (".mha", ".mhd")
"""Of these, the ones with a MetaImage header."""
NRRD_WORLDS = {
    "left-posterior-superior": "lps",
    "right-anterior-superior": "ras",
    "left-anterior-superior": "las",
}
"""NRRD's names of the worlds that SimpleITK turns to LPS, and their short forms. It would take any
other for LPS."""
_LONGEST_HEADER = 1 << 20
_MOST_AXES = 10
_DATA_FIELDS = ("elementdatafile", "data file", "datafile")
_MATRIX_FIELDS = ("transformmatrix", "orientation", "rotation")
_ONE_VALUE_KINDS = ("domain", "space", "???", "none")
_BYTES = {  # of MetaImage's element types
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


def missing_world(path: Path) -> str | None:
    """Say what a NRRD or MetaImage header lacks to place its voxels in a patient; None if nothing.

    ITK would fill in what is absent, and so guess an orientation. A file that is neither of the
    two lacks nothing here: ITK will refuse it.

    Raises:
        OSError: when the file cannot be read.
    """
    fields = _text_header(path)
    if not {"sizes", "dimsize"} & set(fields):
        return None
    if "dimsize" in fields:
        axes = fields.get("ndims", "")
        if not axes.isdecimal() or not 1 <= int(axes) <= _MOST_AXES:
            return "the header's field 'NDims' is no number of axes"
        if not set(_MATRIX_FIELDS) & set(fields):
            return "the header has no field 'TransformMatrix'"
        return None
    world = fields.get("space", "")
    if world.lower() not in {*NRRD_WORLDS, *NRRD_WORLDS.values()}:
        return f"the header's field 'space' is {world!r}, the rule is {', '.join(NRRD_WORLDS)}"
    if "space directions" not in fields:
        return "the header has no field 'space directions'"
    count = len(_vectors(fields["space directions"]))
    return None if count == 3 else f"'space directions' gives {count} axes a direction, not 3"


def open_nrrd(path: Path) -> OpenedImage:
    """Open a CT by its header.

    Raises:
        CaseRefused: with the code of the rule that the header breaks.
    """
    import SimpleITK as sitk  # noqa: N813 - the field's usual name

    _check_header(path)
    reader = sitk.ImageFileReader()
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
        with access_refused():
            _check_stream(path)
        reader.SetExtractIndex([axis.start for axis in region])
        reader.SetExtractSize([axis.stop - axis.start for axis in region])
        try:
            voxels = sitk.GetArrayFromImage(reader.Execute())  # (k, j, i)
        except RuntimeError as error:
            raise CaseRefused("file_truncated", "voxels cannot be read") from error
        return np.ascontiguousarray(voxels.T, dtype=np.float32)

    i, j, k = (int(n) for n in reader.GetSize())
    return (i, j, k), LPS_TO_RAS @ affine, read


def _is_meta(path: Path) -> bool:
    return path.name.lower().endswith(META_SUFFIXES)


def _text_header(path: Path) -> dict[str, str]:
    """Return the fields of a NRRD or MetaImage header, names in small letters."""
    meta = _is_meta(path)
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for raw in file.read(_LONGEST_HEADER).split(b"\n"):
            line = raw.decode("utf-8", errors="replace").rstrip("\r")
            name, _, value = line.partition("=" if meta else ":")
            if not line or "elementdatafile" in fields:
                break  # voxels follow
            if not line.startswith("#"):
                fields[name.strip().lower()] = value.strip()
    return fields


def _vectors(text: str) -> list[list[float]]:
    """Return the vectors of a NRRD field; an axis without one (``none``) is left out.

    >>> _vectors("none (1,0,0) (0, 2.5,x)")
    [[1.0, 0.0, 0.0], [0.0, 2.5, nan]]
    """
    return [_numbers(inner.replace(",", " ")) for inner in re.findall(r"\(([^)]*)\)", text)]


def _numbers(text: str) -> list[float]:
    found = []
    for part in text.split():
        try:
            found.append(float(part))
        except ValueError:
            found.append(float("nan"))
    return found


def _check_header(path: Path) -> None:
    """Refuse a header that is no CT's, or that ITK would stumble over."""
    fields = _text_header(path)
    meta = _is_meta(path)
    sizes = "dimsize" if meta else "sizes"
    if sizes not in fields:
        raise CaseRefused("input_unreadable", "the file has no header of a NRRD or MetaImage")
    lack = missing_world(path)
    if lack is not None:
        raise CaseRefused("geometry_missing", lack)
    axes = fields.get("ndims" if meta else "dimension", "")
    if axes != "3":
        raise CaseRefused("not_volume", f"the header speaks of {axes or 'no'} axes, not of 3")
    counts = fields[sizes].split()
    if len(counts) != 3 or not all(c.isdecimal() and int(c) > 0 for c in counts):
        raise CaseRefused("geometry_invalid", "the header's sizes are not three whole numbers")
    if meta:
        _check_meta(fields)
    else:
        _check_nrrd(fields)
    _check_data_file(path, fields)


def _check_meta(fields: dict[str, str]) -> None:
    if fields.get("elementtype") not in _BYTES:
        raise CaseRefused("input_unreadable", "the header's field 'ElementType' is no known one")
    if fields.get("elementnumberofchannels", "1") != "1":
        raise CaseRefused("not_volume", "voxels are not single numbers")
    counts = {"elementspacing": 3, "elementsize": 3, "offset": 3, "position": 3, "origin": 3}
    for name, count in {**counts, **dict.fromkeys(_MATRIX_FIELDS, 9)}.items():
        if name in fields:
            found = _numbers(fields[name])
            if len(found) != count or not np.isfinite(found).all():
                raise CaseRefused(
                    "geometry_invalid", f"the header's field {name!r} is not {count} numbers"
                )
    for one_of in (("elementspacing", "elementsize"), ("offset", "position", "origin")):
        if not set(one_of) & set(fields):
            raise CaseRefused("geometry_missing", f"the header has no field {one_of[0]!r}")
    if "elementdatafile" not in fields:
        raise CaseRefused("file_truncated", "the header does not say where the voxels are")


def _check_nrrd(fields: dict[str, str]) -> None:
    kinds = fields.get("kinds", "").lower().split()
    if any(kind not in _ONE_VALUE_KINDS for kind in kinds):
        raise CaseRefused("not_volume", f"axes are of the kinds {', '.join(kinds)}")
    vectors = [*_vectors(fields["space directions"]), *_vectors(fields.get("space origin", ""))]
    if any(len(v) != 3 or not np.isfinite(v).all() for v in vectors):
        raise CaseRefused("geometry_invalid", "directions or origin are not three numbers each")
    if "space origin" not in fields:
        raise CaseRefused("geometry_missing", "the header has no field 'space origin'")
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if not units <= {"mm", ""}:
        raise CaseRefused("units_not_mm", "the header's 'space units' are not mm")


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    """Return the one file that holds the voxels."""
    name = next((fields[field] for field in _DATA_FIELDS if field in fields), "local")
    if name.upper().startswith("LIST") or "%" in name:
        raise CaseRefused("input_unreadable", "the voxels are spread over several files")
    return path if name.lower() == "local" else path.parent / name


def _check_data_file(path: Path, fields: dict[str, str]) -> None:
    """Refuse voxels that lie in a file that is not there, or in several; or are too few."""
    data = _data_file(path, fields)
    if not data.is_file():
        raise CaseRefused("file_missing", "the file of voxels that the header names is not there")
    if "dimsize" not in fields:
        return  # ITK says itself when a NRRD ends too early
    needed = _BYTES[fields["elementtype"]]
    for count in fields["dimsize"].split():
        needed *= int(count)
    if fields.get("compresseddata", "false").lower() == "true":
        return
    there = data.stat().st_size - (_voxels_start(path) if data == path else 0)
    if there < needed:
        raise CaseRefused("file_truncated", f"voxels end after {there} of {needed} bytes")


def _voxels_start(path: Path) -> int:
    """Return where the voxels begin in a file that holds header and voxels."""
    end = rb"ElementDataFile[^\n]*\n" if _is_meta(path) else rb"\r?\n\r?\n"
    with path.open("rb") as file:
        found = re.search(end, file.read(_LONGEST_HEADER))
    return found.end() if found else 0


def _check_stream(path: Path) -> None:
    """Refuse compressed voxels that are damaged.

    ITK does not look at a gzip's sum, and tells the user's terminal of a MetaImage's.

    Raises:
        CaseRefused: ``file_truncated``.
    """
    fields = _text_header(path)
    gzipped = fields.get("encoding", "").lower() in ("gz", "gzip")
    if not gzipped and fields.get("compresseddata", "false").lower() != "true":
        return
    data = _data_file(path, fields)
    inflate = zlib.decompressobj(wbits=31 if gzipped else 15)
    try:
        with data.open("rb") as file:
            file.seek(_voxels_start(path) if data == path else 0)
            while not inflate.eof and (chunk := file.read(1 << 20)):
                inflate.decompress(chunk)
    except zlib.error as error:
        raise CaseRefused("file_truncated", "the compressed voxels are damaged") from error
    if not inflate.eof:
        raise CaseRefused("file_truncated", "the compressed voxels are cut")
