"""Geometry of voxel grids: affines, boxes, world positions; RAS+ inside, LPS at the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.core.arrays import Affine, Points, Region

LPS = np.array([-1.0, -1.0, 1.0])
"""RAS+ ↔ LPS of positions and directions (..., 3): multiply by it."""
LPS_TO_RAS = np.diag([*LPS, 1.0])
"""RAS+ ↔ LPS of affines: multiply from the left; its own inverse."""


def world_positions(affine: npt.NDArray[np.floating[Any]], indices: Any) -> Points:
    """Return world positions (n, 3) in mm of voxel indices (n, 3).

    >>> world_positions(np.diag([2.0, 3.0, 4.0, 1.0]), [[1, 1, 1]])
    array([[2., 3., 4.]])
    """
    world: Points = np.asarray(indices, dtype=float) @ affine[:3, :3].T + affine[:3, 3]
    return world


def nonzero_box(array: npt.NDArray[np.generic], margin: int = 0) -> Region | None:
    """Return the smallest box around the non-zero voxels, or None where there is none.

    Args:
        array: (i, j, k).
        margin: voxels to add on every side as far as the array reaches.

    >>> nonzero_box(np.pad(np.ones((2, 1, 3)), ((1, 0), (2, 2), (0, 4))))
    (slice(1, 3, None), slice(2, 3, None), slice(0, 3, None))
    """
    found: list[slice] = []
    for axis, size in enumerate(array.shape):
        view = array[tuple(found)]
        rest = tuple(other for other in range(array.ndim) if other != axis)
        hit = np.flatnonzero(view.any(axis=rest))
        if hit.size == 0:
            return None
        found.append(slice(max(int(hit[0]) - margin, 0), min(int(hit[-1]) + 1 + margin, size)))
    return found[0], found[1], found[2]


def label_voxels(labels: npt.NDArray[np.integer[Any]]) -> dict[int, npt.NDArray[np.intp]]:
    """Return the voxel indices (n, 3) of each label of a label map but 0, by rising label.

    >>> label_voxels(np.array([[[0, 5, 2, 5]]]))[5].tolist()
    [[0, 0, 1], [0, 0, 3]]
    """
    from scipy.ndimage import value_indices

    found = value_indices(np.asarray(labels), ignore_value=0)
    return {int(value): np.stack(found[value], axis=1) for value in sorted(found)}


def box_affine(affine: Affine, box: Region) -> Affine:
    """Return the affine of a box of the array.

    >>> box_affine(np.diag([2.0, 1, 1, 1]), (slice(3, 5), slice(0, 1), slice(4, 5)))[:3, 3]
    array([6., 0., 4.])
    """
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = affine[:3, :3] @ [side.start for side in box] + affine[:3, 3]
    return moved


def voxel_spacing(affine: Affine) -> npt.NDArray[np.float64]:
    """Return the lengths of the three voxel edges in mm.

    >>> voxel_spacing(np.diag([-0.5, 2.0, 3.0, 1.0]))
    array([0.5, 2. , 3. ])
    """
    spacing: npt.NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing


def upright(affine: Affine) -> Affine:
    """Return an affine of the same voxel edges whose axes lie along the nearest of the world's.

    >>> c, s = np.cos(0.1), np.sin(0.1)
    >>> turned = np.diag([2.0, 3.0, -4.0, 1.0])
    >>> turned[:2, :2] = np.array([[c, -s], [s, c]]) * [2, 3]
    >>> np.diag(upright(turned)).tolist()
    [2.0, 3.0, -4.0, 1.0]
    """
    from nibabel.orientations import io_orientation

    out = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (world, sign) in enumerate(io_orientation(affine)):
        out[int(world), axis] = sign * round(float(np.linalg.norm(affine[:3, axis])), 6)
    return out


def long_axis(affine: Affine) -> int:
    """Return the array axis that runs closest to cranio-caudal."""
    return int(np.abs(affine[2, :3] / voxel_spacing(affine)).argmax())
