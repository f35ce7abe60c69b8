"""Brings labels onto the CT's grid: exactly where grids coincide, else the nearest label.

World is RAS+ in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.anatomy import LEVEL_NAMES, LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, LabelVolume, Region
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.geometry import long_axis, voxel_spacing
from monai_vfx.io.label_map import LabelFile

GRID_TOLERANCE = 0.1
"""Grids coincide when their corners do within this share of the CT's smallest spacing."""

OUTSIDE_SHARE = 0.05
"""Largest share of T12-L4's voxels that may lie beside the CT (not above or below it)."""

OVERLAP_SHARE = 0.05
"""Largest share of a vertebra's voxels that another vertebra may claim as well."""

_STUDY = tuple(VERTEBRAE[level] for level in LEVELS)
_MARGIN = 8  # voxels around the labels, so that a box's edge is not taken for the volume's


@dataclass(frozen=True)
class Placed:
    """A file's labels on the CT's grid, and what was lost or changed on the way."""

    values: LabelVolume
    box: Region
    resampled: bool
    total: int  # voxels of T12-L4 in the file's grid
    beside: int  # of these, beside the CT
    beyond: int  # of these, above or below it
    levels: frozenset[int]  # of T12-L4 in the file


def place(found: LabelFile, shape: tuple[int, int, int], affine: Affine) -> Placed:
    """Bring a file's labels onto the CT's grid, exactly where the grids' points coincide."""
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
    """Return the whole-numbered index map (4, 4) from mask to CT, or None if there is none.

    The mask's axes may be permuted, flipped and shifted against the CT's, and be longer or
    shorter, as long as the points of both grids coincide.
    """
    rounded = np.rint(to_ct)
    turn = np.abs(rounded[:3, :3])
    if not ((turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()):
        return None
    corners = np.array(list(product(*((0, size - 1) for size in mask_shape))), dtype=float)
    difference = to_ct - rounded
    apart = (corners @ difference[:3, :3].T + difference[:3, 3]) @ affine[:3, :3].T
    limit = GRID_TOLERANCE * voxel_spacing(affine).min()
    if np.linalg.norm(apart, axis=1).max() > limit:
        return None
    return rounded.astype(np.int64)


def _reindex(
    found: LabelFile, exact: npt.NDArray[np.int64], shape: tuple[int, int, int]
) -> tuple[LabelVolume, Region]:
    """Turn and flip the box of labels; what lies outside the CT is dropped."""
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
    """Take at each CT voxel the label of the mask voxel that is nearest in the world."""
    first = np.array(found.start)
    ends = np.array([first - 0.5, first + found.values.shape - 0.5])
    corners = np.array(list(product(*ends.T))) @ to_ct[:3, :3].T + to_ct[:3, 3]
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
    """Count T12-L4's voxels in all, beside the CT and beyond its cranial and caudal ends."""
    study = np.isin(found.values, _STUDY)
    levels = frozenset(int(value) for value in np.unique(found.values[study]))
    index = np.argwhere(study) + found.start
    position = index @ to_ct[:3, :3].T + to_ct[:3, 3]
    out = (position < -0.5) | (position > np.array(shape) - 0.5)
    along = long_axis(affine)
    beside = np.delete(out, along, axis=1).any(axis=1)
    beyond = out[:, along] & ~beside
    return len(index), int(beside.sum()), int(beyond.sum()), levels


def check_place(placed: list[Placed]) -> list[CaseWarning]:
    """Refuse labels that do not lie in the CT; warn of those that do in part, or were resampled.

    A mask drawn on a longer scan may stick out above and below, which shows as cut or missing
    levels. Beside the CT nothing of it has a reason to be.
    """
    total, beside, beyond = (
        sum(getattr(part, name) for part in placed) for name in ("total", "beside", "beyond")
    )
    if beside > OUTSIDE_SHARE * total or beside + beyond == total:
        raise CaseRefused(
            "mask_grid_mismatch",
            f"{(beside + beyond) / total:.0%} of the voxels of T12-L4 lie outside the CT",
        )
    text = "the mask's grid differs from the CT's: nearest label"
    resampled = any(part.resampled for part in placed)
    warnings = [CaseWarning("mask_resampled", text)] if resampled else []
    if beside + beyond:
        text = f"{(beside + beyond) / total:.1%} of the voxels of T12-L4 lie outside the CT"
        warnings.append(CaseWarning("mask_partial", text))
    return warnings


def enclosing(boxes: list[Region], shape: tuple[int, int, int]) -> Region:
    """Return the box around boxes, a margin wider as far as the volume reaches."""
    sides = [
        slice(
            max(min(box[axis].start for box in boxes) - _MARGIN, 0),
            min(max(box[axis].stop for box in boxes) + _MARGIN, shape[axis]),
        )
        for axis in range(3)
    ]
    return sides[0], sides[1], sides[2]


def join(placed: list[Placed], shape: tuple[int, int, int]) -> LabelVolume:
    """Put the labels of several files into one volume.

    A vertebra outweighs a muscle. Where two vertebrae claim a voxel, the one above has it, as long
    as the two share no more than ``OVERLAP_SHARE`` of the smaller one.

    Args:
        placed: each file's labels.
        shape: (i, j, k) of the CT.

    Returns:
        (i, j, k) uint8.

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
                f"{names} share {share:.0%} of the smaller one's voxels; the rule is at most "
                f"{OVERLAP_SHARE:.0%}",
            )
