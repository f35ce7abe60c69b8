"""Bring labels onto the CT's grid: exactly where grids coincide, else by the nearest label.

World is RAS+ in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.anatomy import LEVEL_NAMES, STUDY_LABELS
from monai_vfx.core.arrays import Affine, LabelVolume, Region
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.geometry import long_axis, voxel_spacing, world_positions
from monai_vfx.io.label_map import LabelFile

GRID_TOLERANCE = 0.1
"""Grids coincide when their corners do within this share of the CT's smallest spacing."""

OUTSIDE_SHARE = 0.05
"""Maximum share of T12-L4's voxels that may lie beside the CT (not above or below it)."""

OVERLAP_SHARE = 0.05
"""Maximum share of a vertebra's voxels that another vertebra may overlap."""

_MARGIN = 8  # voxels around the labels, so that the edge of the box is not taken for the volume's


@dataclass(frozen=True)
class Placed:
    """Labels of a file on the CT's grid, and how they were changed."""

    values: LabelVolume
    box: Region
    resampled: bool
    total: int  # voxels of T12-L4 in the file's grid
    beside: int  # of these, beside the CT
    beyond: int  # of these, above or below it
    levels: frozenset[int]  # of T12-L4 in the file


def place(found: LabelFile, shape: tuple[int, int, int], affine: Affine) -> Placed:
    """Bring the labels of a file onto the CT's grid."""
    to_ct = np.asarray(np.linalg.inv(affine), dtype=np.float64) @ found.affine
    exact = _lattice_map(to_ct, found.shape, affine)
    counts = _count_outside(found, to_ct, shape, affine)
    if exact is None:
        values, box = _resample(found, to_ct, shape)
    else:
        values, box = _reindex(found, exact, shape)
    return Placed(values, box, exact is None, *counts)


def _lattice_map(
    to_ct: Affine, mask_shape: tuple[int, int, int], affine: Affine
) -> npt.NDArray[np.int64] | None:
    """Return the integer index map (4, 4) from mask to CT, or None if there is none.

    The mask's axes may be permuted, flipped and shifted against the CT's, and be longer or
    shorter, as long as the points of both grids coincide.
    """
    rounded = np.rint(to_ct)
    turn = np.abs(rounded[:3, :3])
    if not ((turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()):
        return None
    corners = np.array(list(product(*((0, size - 1) for size in mask_shape))), dtype=float)
    difference = to_ct - rounded
    apart = world_positions(difference, corners) @ affine[:3, :3].T
    exact = np.linalg.norm(apart, axis=1).max() <= GRID_TOLERANCE * voxel_spacing(affine).min()
    return rounded.astype(np.int64) if exact else None


def _reindex(
    found: LabelFile, exact: npt.NDArray[np.int64], shape: tuple[int, int, int]
) -> tuple[LabelVolume, Region]:
    """Permute and flip the axes of the box of labels; what lies outside the CT is dropped."""
    order = np.abs(exact[:3, :3]).argmax(axis=1)  # CT axis → mask axis
    signs = exact[np.arange(3), order]
    values = found.values.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]
    first = np.array(found.start)
    ends = np.array([first, first + found.values.shape - 1]) @ exact[:3, :3].T + exact[:3, 3]
    start = ends.min(axis=0)
    box, inner = [], []
    for begin, length, size in zip(start.tolist(), values.shape, shape, strict=True):
        low, high = max(begin, 0), max(min(begin + length, size), 0)
        low = min(low, high)
        box.append(slice(low, high))
        inner.append(slice(low - begin, high - begin))
    return values[tuple(inner)].astype(np.uint8), (box[0], box[1], box[2])


def _resample(
    found: LabelFile, to_ct: Affine, shape: tuple[int, int, int]
) -> tuple[LabelVolume, Region]:
    """Take at each CT voxel the label of the nearest mask voxel."""
    first = np.array(found.start)
    ends = np.array([first - 0.5, first + found.values.shape - 0.5])
    corners = world_positions(to_ct, list(product(*ends.T)))
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, shape)
    high = np.maximum(np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, shape), low)
    back = np.linalg.inv(to_ct)
    values = ndimage.affine_transform(
        found.values.astype(np.uint8),
        back[:3, :3],
        offset=back[:3, :3] @ low + back[:3, 3] - first,
        output_shape=tuple((high - low).tolist()),
        order=0,
        mode="grid-constant",
    )
    i, j, k = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    return values, (i, j, k)


def _count_outside(
    found: LabelFile, to_ct: Affine, shape: tuple[int, int, int], affine: Affine
) -> tuple[int, int, int, frozenset[int]]:
    """Return how many voxels T12-L4 have, beside the CT and beyond its ends, and their levels."""
    study = np.isin(found.values, STUDY_LABELS)
    levels = frozenset(int(value) for value in np.unique(found.values[study]))
    index = np.argwhere(study) + found.start
    position = world_positions(to_ct, index)
    out = (position < -0.5) | (position > np.array(shape) - 0.5)
    along = long_axis(affine)
    beside = np.delete(out, along, axis=1).any(axis=1)
    beyond = out[:, along] & ~beside
    return len(index), int(beside.sum()), int(beyond.sum()), levels


def check_place(placed: list[Placed]) -> list[CaseWarning]:
    """Refuse labels that lie beside the CT; warn of those that leave it or were resampled.

    A mask drawn on a longer scan may reach beyond the CT above and below, which shows as cut or
    missing levels, but not beside it.
    """
    total, beside, beyond = (
        sum(getattr(part, name) for part in placed) for name in ("total", "beside", "beyond")
    )
    if beside > OUTSIDE_SHARE * total or beside + beyond == total:
        raise CaseRefused(
            "mask_grid_mismatch",
            f"{(beside + beyond) / total:.0%} of the voxels of T12-L4 lie outside the CT",
        )
    warnings = []
    if any(part.resampled for part in placed):
        text = "the mask's grid differs from the CT's: each voxel has the nearest label"
        warnings.append(CaseWarning("mask_resampled", text))
    if beside + beyond:
        text = f"{(beside + beyond) / total:.1%} of the voxels of T12-L4 lie outside the CT"
        warnings.append(CaseWarning("mask_partial", text))
    return warnings


def enclosing(boxes: list[Region], shape: tuple[int, int, int]) -> Region:
    """Return the box around boxes, with a margin as far as the volume reaches."""
    i, j, k = (
        slice(
            max(min(side.start for side in sides) - _MARGIN, 0),
            min(max(side.stop for side in sides) + _MARGIN, size),
        )
        for sides, size in zip(zip(*boxes, strict=True), shape, strict=True)
    )
    return i, j, k


def join(placed: list[Placed], shape: tuple[int, int, int]) -> LabelVolume:
    """Join the labels of several files in one volume (i, j, k) of the CT's shape.

    Vertebrae take precedence over muscles. Where two vertebrae overlap the upper one takes
    precedence, as long as they share at most ``OVERLAP_SHARE`` of the smaller one.

    Raises:
        CaseRefused: ``mask_overlaps``.
    """
    labels = np.zeros(shape, dtype=np.uint8)
    order = sorted(placed, key=lambda part: int(part.values.max(initial=0)))
    counts = sum(np.bincount(part.values.ravel(), minlength=256) for part in placed)
    for part in order:
        view = labels[part.box]
        both = (part.values > 0) & (view > 0) & (part.values < 100) & (view < 100)
        both &= part.values != view
        if both.any():
            _check_overlap(part.values, view, both, counts)
        np.copyto(view, part.values, where=(part.values > 0) & ((view == 0) | (view > 100)))
    return labels


def _check_overlap(
    values: LabelVolume, view: LabelVolume, both: npt.NDArray[np.bool_], counts: Any
) -> None:
    pairs = np.unique(np.stack([view[both], values[both]]), axis=1).T
    for upper, lower in pairs.tolist():
        shared = int((both & (view == upper) & (values == lower)).sum())
        share = shared / int(min(counts[upper], counts[lower]))
        if share > OVERLAP_SHARE:
            names = " and ".join(LEVEL_NAMES.get(value, "the sacrum") for value in (upper, lower))
            raise CaseRefused(
                "mask_overlaps",
                f"{names} must share at most {OVERLAP_SHARE:.0%} of the smaller one's voxels, got "
                f"{share:.0%}",
            )
