"""Label maps from NIfTI and NRRD files: whole numbers, a geometry, and names where a file has them.

NIfTI files are read slab by slab, as most of a label map is zero and some tools write it as
float64: only the box around the labels is kept, so memory follows the anatomy and not the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.core.anatomy import structure_of_name
from monai_vfx.core.arrays import Affine, Region
from monai_vfx.core.errors import CaseRefused, access_refused
from monai_vfx.core.geometry import box_affine, nonzero_box, voxel_spacing
from monai_vfx.io.itk import NRRD_SUFFIXES, ItkFile
from monai_vfx.io.nifti import NiftiFile

SUFFIXES = (".nii", ".nii.gz", *NRRD_SUFFIXES)
"""Endings of the files that :func:`read_label_file` takes."""

FOREGROUND = 0.5
"""In a file of one structure, values above this belong to it."""

WHOLE_TOLERANCE = 1e-3
"""How far a scaled value may lie from a whole number."""

_MAX_LABEL = (1 << 53) - 1  # beyond it float64 skips whole numbers


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
    with access_refused("mask_unreadable"):
        kind = ItkFile if path.name.lower().endswith(NRRD_SUFFIXES) else NiftiFile
        file = kind(path, called(path), "mask_unreadable")
        shape, affine = file.shape, file.affine
        spacing = voxel_spacing(affine)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise CaseRefused(
                "geometry_invalid", f"{called(path)}: voxel edges are {spacing.tolist()} mm"
            )
        values, start = _gather(path, file.slabs(), binary)
    return LabelFile(values, start, shape, affine, file.names(), cropped=values.shape == shape)


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
    if largest > _MAX_LABEL:
        raise CaseRefused(
            "mask_fractional", f"{called(path)} holds the value {largest:.3g}, which is no label"
        )
    dtype = next(t for t in (np.uint8, np.uint16, np.uint64) if largest <= np.iinfo(t).max)
    whole: npt.NDArray[np.unsignedinteger] = np.maximum(values, 0).astype(dtype)
    return whole
