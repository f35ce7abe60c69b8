"""Label maps from NIfTI and NRRD files: whole numbers, a geometry, and names where a file has them.

NIfTI files are read slab by slab, as most of a label map is zero and some tools write it as
float64: only the box around the labels is kept, so memory follows the anatomy and not the file.
"""

from __future__ import annotations

import gzip
import html
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from monai_vfx.core.anatomy import structure_of_name
from monai_vfx.core.arrays import Affine, Region
from monai_vfx.core.errors import CaseRefused, access_refused, reason
from monai_vfx.core.geometry import box_affine, nonzero_box
from monai_vfx.io.itk import ItkFile, affine_of
from monai_vfx.io.nifti import check_units, load_nifti

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Endings of the files that :func:`read_label_file` takes."""

FOREGROUND = 0.5
"""In a file of one structure, values above this belong to it."""

WHOLE_TOLERANCE = 1e-3
"""How far a scaled value may lie from a whole number."""

_SLAB_BYTES = 1 << 23
_LARGEST_LABEL = (1 << 53) - 1  # beyond it float64 skips whole numbers
_LARGEST_NAME_TABLE = 1 << 22  # bytes
_LABEL_TAG = re.compile(
    r'<Label\b[^>]*?\bKey="(\d+)"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</Label>', re.DOTALL
)


@dataclass(frozen=True)
class LabelFile:
    """The labels of one file within the box that holds them.

    Attributes:
        values: (i, j, k) unsigned whole numbers of the box; shape (0, 0, 0) for an empty file.
        start: index of the box's first voxel in the file's grid.
        shape: voxels of the file's grid along (i, j, k).
        affine: (4, 4) index of the file's grid → world mm, RAS+.
        names: label value → name, where the file carries names.
        cropped: the file ends at its labels on all six sides, so that its extent says nothing
            about the field of view.
    """

    values: npt.NDArray[np.unsignedinteger]
    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    affine: Affine
    names: dict[int, str]
    cropped: bool

    @property
    def box_affine(self) -> Affine:
        """(4, 4): index within ``values`` → world mm."""
        first, second, third = (slice(begin, begin + 1) for begin in self.start)
        return box_affine(self.affine, (first, second, third))

    def with_values(self, values: npt.NDArray[np.unsignedinteger]) -> LabelFile:
        """Return the same grid with other labels in the box, cropped to what is not zero."""
        box = nonzero_box(values)
        if box is None:
            return replace(self, values=values[:0, :0, :0])
        start = [begin + side.start for begin, side in zip(self.start, box, strict=True)]
        return replace(self, values=values[box], start=(start[0], start[1], start[2]))


def called(path: Path) -> str:
    """Return how messages call a file: by the structure it holds, never by its name.

    A file's name may carry a patient's.

    >>> called(Path("Doe_Jane.nii.gz")), called(Path("vertebrae_L1.nii.gz"))
    ('the mask', 'the mask of L1')
    """
    structure = structure_of_name(path.name)
    return "the mask" if structure is None else f"the mask of {structure}"


def is_label_file(path: Path) -> bool:
    """Say whether the ending is one that :func:`read_label_file` takes.

    >>> is_label_file(Path("T12.nii.gz")), is_label_file(Path("report.json"))
    (True, False)
    """
    return path.name.lower().endswith(SUFFIXES)


def read_label_file(path: Path, *, binary: bool = False) -> LabelFile:
    """Read a label map.

    Args:
        path: NIfTI (.nii, .nii.gz), NRRD (.nrrd, .seg.nrrd) or MetaImage (.mha).
        binary: the file holds one structure; every value above ``FOREGROUND`` becomes 1, so
            probabilities are accepted. Otherwise values must be whole numbers.

    Raises:
        CaseRefused: ``mask_unreadable``, ``file_truncated``, ``not_volume``, ``mask_fractional``,
            ``geometry_missing`` or ``geometry_invalid``.
    """
    if not path.is_file() or not is_label_file(path):
        raise CaseRefused("mask_unreadable", f"{called(path)} is not a file ending in {SUFFIXES}")
    nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    with access_refused("mask_unreadable"):
        found = _read_nifti(path, binary) if nifti else _read_itk(path, binary)
    spacing = np.linalg.norm(found.affine[:3, :3], axis=0)
    if not np.isfinite(found.affine).all() or abs(np.linalg.det(found.affine[:3, :3])) < 1e-9:
        raise CaseRefused(
            "geometry_invalid", f"{called(path)}: voxel edges are {spacing.tolist()} mm"
        )
    return found


def names_of_xml(text: str) -> dict[int, str]:
    """Return the label names of a Caret label table, as TotalSegmentator v2 writes it into NIfTI.

    Only ``Label`` elements are looked for; nothing is expanded or fetched.

    Raises:
        CaseRefused: ``mask_unreadable`` when the text declares a document type or entities.

    >>> names_of_xml('<LabelTable><Label Key="32"><![CDATA[vertebrae_T12]]></Label></LabelTable>')
    {32: 'vertebrae_T12'}
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CaseRefused("mask_unreadable", "the label table declares XML entities")
    return {
        int(key): (verbatim or html.unescape(plain)).strip()
        for key, verbatim, plain in _LABEL_TAG.findall(text)
    }


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


def _read_nifti(path: Path, binary: bool) -> LabelFile:
    try:
        image = load_nifti(path)
    except PermissionError:
        raise
    except (EOFError, zlib.error) as error:
        raise CaseRefused("file_truncated", f"{called(path)}: the header is cut") from error
    except (OSError, ValueError) as error:
        raise CaseRefused("mask_unreadable", f"{called(path)} is no NIfTI image") from error
    header = image.header
    shape = _three_axes(path, image.shape)
    if header.get_data_dtype().kind not in "uif":
        raise CaseRefused("not_volume", f"{called(path)} holds {header.get_data_dtype()} voxels")
    if (int(header["sform_code"]), int(header["qform_code"])) == (0, 0):
        raise CaseRefused(
            "geometry_missing",
            f"{called(path)}: sform and qform codes are both 0, no position is set",
        )
    check_units(image)
    slabs = _slabs(path, image.dataobj, shape)
    try:
        values, start = _gather(path, slabs, binary)
    except PermissionError:
        raise
    except (EOFError, zlib.error, OSError) as error:
        raise CaseRefused(
            "file_truncated", f"{called(path)}: voxels cannot be read ({reason(error)})"
        ) from error
    affine = np.asarray(image.affine, dtype=np.float64)
    names = _nifti_names(header.extensions)
    return LabelFile(values, start, shape, affine, names, cropped=values.shape == shape)


def _three_axes(path: Path, sizes: Iterable[int]) -> tuple[int, int, int]:
    """Accept three axes, or more of which the further ones have one frame."""
    shape = [int(size) for size in sizes]
    if len(shape) < 3 or min(shape) < 1 or any(size != 1 for size in shape[3:]):
        raise CaseRefused("not_volume", f"{called(path)} has shape {tuple(shape)}")
    return shape[0], shape[1], shape[2]


def _slabs(
    path: Path, proxy: Any, shape: tuple[int, int, int]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (first k, (i, j, some k)) of the file's values in order, to the file's end."""
    dtype = np.dtype(proxy.dtype)
    plane = shape[0] * shape[1]
    step = max(1, _SLAB_BYTES // (plane * dtype.itemsize))
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with cast(BinaryIO, opener(path, "rb")) as stream:
        stream.seek(proxy.offset)
        for begin in range(0, shape[2], step):
            planes = min(step, shape[2] - begin)
            raw = stream.read(planes * plane * dtype.itemsize)
            if len(raw) < planes * plane * dtype.itemsize:
                raise CaseRefused(
                    "file_truncated", f"{called(path)}: voxels end at slice {begin} of {shape[2]}"
                )
            slab = np.frombuffer(raw, dtype=dtype).reshape((*shape[:2], planes), order="F")
            if (proxy.slope, proxy.inter) != (1, 0):
                slab = slab * np.float64(proxy.slope) + np.float64(proxy.inter)
            yield begin, slab
        stream.read(1)  # the end of a gzip stream holds its checksum


def _gather(
    path: Path, slabs: Iterable[tuple[int, npt.NDArray[Any]]], binary: bool
) -> tuple[npt.NDArray[np.unsignedinteger], tuple[int, int, int]]:
    """Put the labelled parts of slabs along k together into one box."""
    parts: list[tuple[npt.NDArray[np.unsignedinteger], Region, int]] = []
    for begin, slab in slabs:
        around = nonzero_box(slab)
        if around is not None:
            parts.append((_whole(path, slab[around], binary), around, begin))
    if not parts:
        return np.zeros((0, 0, 0), dtype=np.uint8), (0, 0, 0)
    low = [min(box[axis].start for _, box, _ in parts) for axis in (0, 1)]
    high = [max(box[axis].stop for _, box, _ in parts) for axis in (0, 1)]
    first = parts[0][2] + parts[0][1][2].start
    last = parts[-1][2] + parts[-1][1][2].stop
    dtype = max((part.dtype for part, _, _ in parts), key=lambda kind: kind.itemsize)
    joined = np.zeros((high[0] - low[0], high[1] - low[1], last - first), dtype=dtype)
    for part, box, begin in parts:
        joined[
            box[0].start - low[0] : box[0].stop - low[0],
            box[1].start - low[1] : box[1].stop - low[1],
            begin + box[2].start - first : begin + box[2].stop - first,
        ] = part
    return joined, (low[0], low[1], first)


def _whole(path: Path, values: npt.NDArray[Any], binary: bool) -> npt.NDArray[np.unsignedinteger]:
    """Turn values into the smallest unsigned type; values below zero are background."""
    if binary:
        return (values > FOREGROUND).astype(np.uint8)
    if values.dtype.kind == "f":
        rounded = np.rint(values)
        odd = ~(np.abs(values - rounded) <= WHOLE_TOLERANCE)
        if odd.any():
            raise CaseRefused(
                "mask_fractional", f"{called(path)} holds the value {values[odd][0]:g}"
            )
        values = rounded
    largest = int(values.max())
    if largest > _LARGEST_LABEL:
        raise CaseRefused(
            "mask_fractional", f"{called(path)} holds the value {largest:.3g}, which is no label"
        )
    dtype = next(t for t in (np.uint8, np.uint16, np.uint64) if largest <= np.iinfo(t).max)
    whole: npt.NDArray[np.unsignedinteger] = np.maximum(values, 0).astype(dtype)
    return whole


def _nifti_names(extensions: Iterable[Any]) -> dict[int, str]:
    """Return the names of the first label table among a NIfTI file's extensions."""
    for extension in extensions:
        if extension.get_code() not in (0, 30):  # unspecified and Caret; others are not text
            continue
        content = extension.get_content()
        if isinstance(content, bytes):
            content = content[:_LARGEST_NAME_TABLE].decode("utf-8", errors="replace")
        if isinstance(content, str) and "<LabelTable" in content:
            return names_of_xml(content)
    return {}


def _read_itk(path: Path, binary: bool) -> LabelFile:
    file = ItkFile.of(path, called(path), "mask_unreadable")
    reader = file.open()
    if reader.GetNumberOfComponents() != 1:
        raise CaseRefused(
            "not_volume",
            f"{called(path)} holds {reader.GetNumberOfComponents()} layers of segments; "
            "save it with segments that do not overlap",
        )
    shape = _three_axes(path, reader.GetSize())
    values = file.read(reader).reshape(shape[::-1]).T
    if values.dtype.kind not in "uif":
        raise CaseRefused("not_volume", f"{called(path)} holds {values.dtype} voxels")
    gathered, start = _gather(path, [(0, values)], binary)
    cropped = gathered.shape == shape
    names = names_of_segments(file.header.keys)
    return LabelFile(gathered, start, shape, affine_of(reader), names, cropped=cropped)
