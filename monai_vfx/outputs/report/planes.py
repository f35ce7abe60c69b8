"""Planes of a CT for a reader: where their pixels lie, and what a CT holds there."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.arrays import Affine, Points, Region
from monai_vfx.core.geometry import world_positions


def plane_along_spine(
    centres: Points,
    axis: int,
    across_mm: tuple[float, float],
    z_mm: tuple[float, float],
    step: float,
) -> Points:
    """Return the pixel positions of the plane that follows the bodies' centres from feet to head.

    Args:
        centres: (n, 3) of the bodies, mm, RAS+.
        axis: 1 for a view from the patient's left, 0 for a view from the front.
        across_mm: coordinates along ``axis`` of the left and the right edge, the left the larger
            one: anterior or the patient's right is on the reader's left.
        z_mm: coordinates of the lower and the upper edge.
        step: pixel size, mm.

    Returns:
        (rows, columns, 3) in mm, RAS+, head up.
    """
    z = np.arange(z_mm[1] - step / 2, z_mm[0], -step)
    across = np.arange(across_mm[0] - step / 2, across_mm[1], -step)
    order = centres[:, 2].argsort()
    world = np.empty((len(z), len(across), 3))
    world[..., axis] = across
    world[..., 1 - axis] = np.interp(z, centres[order, 2], centres[order, 1 - axis])[:, None]
    world[..., 2] = z[:, None]
    return world


def enclosing_box(world: Points, affine: Affine, shape: tuple[int, ...]) -> Region:
    """Return the box of voxels that holds positions (…, 3) in mm, RAS+, clipped to a grid."""
    index = world_positions(np.asarray(np.linalg.inv(affine), np.float64), world.reshape(-1, 3))
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, np.array(shape) - 1)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, first + 1, shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return i, j, k


def sample(
    voxels: npt.NDArray[Any], affine: Affine, world: Points, *, order: Literal[0, 1] = 1
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return values at positions (rows, columns, 3) in mm, RAS+, and which lie outside the grid.

    Args:
        voxels: (i, j, k).
        affine: of ``voxels``.
        world: positions.
        order: 1 interpolates linearly, 0 takes the nearest voxel.
    """
    inverse = np.linalg.inv(affine)
    index = world @ inverse[:3, :3].T + inverse[:3, 3]
    outside = ((index < -0.5) | (index > np.array(voxels.shape) - 0.5)).any(axis=-1)
    values: npt.NDArray[Any] = ndimage.map_coordinates(
        voxels, np.moveaxis(index, -1, 0), order=order, mode="nearest"
    )
    return values, outside
