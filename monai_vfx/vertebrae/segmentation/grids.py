"""Grids: a CT kept small in memory, and sampled where a network wants it.

A network sees one kind of image only: upright in the world (or in a vertebra's frame), of one
voxel size, each voxel the mean of what it covers. That is what training's images are, and here
any CT becomes one: oblique, flipped, permuted or anisotropic as its file may be. Everything is
done in world millimetres, RAS+, so that the order of the file's axes changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from scipy import ndimage

from monai_vfx.core.arrays import Affine, Points, Region
from monai_vfx.core.geometry import voxel_spacing, world_positions
from monai_vfx.io.volume import Volume

LOCATOR_SPACING_MM = (4.0, 4.0, 3.0)
"""Voxel size of the locator's grid along x (to the right), y (to the front), z (to the head)."""

PATCH_SPACING_MM = 2.0  # Voxel size of the refiner's patches

PATCH_SHAPE = (64, 48, 32)
"""Voxels of a patch along the vertebra's x (right), y (front), z (up the spine)."""

OVERSAMPLE = 2  # A voxel is the mean of this many samples an axis, as in training

MIN_HU, MAX_HU = -1024, 3071
"""Values are held in this range: padding is air, and one piece of metal does not drown a mean."""

_KEPT_MM = 1.25  # finer voxels than this are averaged when a CT is read
_MAX_KEPT = 150_000_000  # voxels, 2 bytes each; a larger CT is kept coarser
_SLAB_VOXELS = 32_000_000  # decoded at a time, 4 bytes each
_BODY_HU = -300.0
_MIN_SHARE = 0.02  # a plane belongs to the body if it holds this share of the fullest one's
_MARGIN_MM = 12.0


@dataclass(frozen=True)
class Image:
    """Values on a grid."""

    values: npt.NDArray[Any]  # (x, y, z), any numbers
    affine: Affine  # (4, 4) index → world mm, RAS+


@dataclass(frozen=True)
class Probabilities:
    """Probabilities of structures on a grid."""

    # (structure, x, y, z) float32, 0 to 1; they add up to 1 over the structures
    values: npt.NDArray[np.float32]
    affine: Affine  # (4, 4) index (x, y, z) → world mm, RAS+


def read_image(volume: Volume) -> Image:
    """Read a whole CT, a slab of slices at a time, as (x, y, z) int16 in HU, -1024 to 3071.

    Voxels finer than 1.25 mm are averaged in blocks; the axes are turned and flipped to the
    nearest of right, front, head, so that blocks do not depend on the file's order.
    """
    turn = io_orientation(volume.affine)
    affine = volume.affine @ inv_ornt_aff(turn, volume.shape)
    order = np.argsort(turn[:, 0])  # canonical axis → file axis
    shape = tuple(volume.shape[int(axis)] for axis in order)
    blocks = _block_sizes(shape, voxel_spacing(affine))
    sizes = tuple(-(-n // block) for n, block in zip(shape, blocks, strict=True))
    kept = np.empty(sizes, dtype=np.int16)
    for low, high, region in _slabs(volume, blocks[2], bool(turn[order[2], 1] < 0)):
        slab = np.clip(volume.read(region), MIN_HU, MAX_HU)  # what is read may be locked
        upright = block_mean(apply_orientation(slab, turn), blocks)
        kept[:, :, low:high] = np.rint(upright).astype(np.int16)
    return Image(kept, block_affine(affine, blocks))


def _block_sizes(shape: tuple[int, ...], spacing: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    """Return how many voxels an axis are averaged into one."""
    limit = _KEPT_MM
    while True:
        blocks = [max(1, int(limit / step + 1e-6)) for step in spacing]
        if np.prod([n / b for n, b in zip(shape, blocks, strict=True)]) <= _MAX_KEPT:
            return blocks[0], blocks[1], blocks[2]
        limit *= 1.25


def _slabs(volume: Volume, block: int, flipped: bool) -> list[tuple[int, int, Region]]:
    """Return (first, last + 1) of the kept slices and the file's region for each slab."""
    axis = volume.slice_axis
    slices = volume.shape[axis]
    in_plane = int(np.prod(volume.shape)) // slices
    step = max(1, _SLAB_VOXELS // (in_plane * block)) * block
    found = []
    for start in range(0, slices, step):
        stop = min(start + step, slices)
        sides = [slice(0, n) for n in volume.shape]
        sides[axis] = slice(slices - stop, slices - start) if flipped else slice(start, stop)
        found.append((start // block, -(-stop // block), (sides[0], sides[1], sides[2])))
    return found


def block_mean(values: npt.NDArray[Any], blocks: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Average blocks of voxels; the last of an axis may hold fewer.

    >>> block_mean(np.arange(5.0).reshape(5, 1, 1), (2, 1, 1)).ravel()
    array([0.5, 2.5, 4. ], dtype=float32)
    """
    out: npt.NDArray[np.float32] = values.astype(np.float32, copy=False)
    for axis, block in enumerate(blocks):
        if block > 1:
            starts = np.arange(0, out.shape[axis], block)
            counts = np.diff(np.append(starts, out.shape[axis])).astype(np.float32)
            sums: npt.NDArray[np.float32] = np.add.reduceat(out, starts, axis=axis)
            out = np.divide(sums, counts.reshape([-1 if n == axis else 1 for n in range(3)]))
    return out


def block_affine(affine: Affine, blocks: tuple[int, int, int]) -> Affine:
    """Return the affine of a grid whose voxels are blocks of another's.

    >>> block_affine(np.eye(4), (2, 1, 1))[:3, 3]
    array([0.5, 0. , 0. ])
    """
    inner = np.diag([*blocks, 1.0])
    inner[:3, 3] = (np.array(blocks) - 1) / 2
    out: Affine = affine @ inner
    return out


def locator_image(image: Image) -> Image:
    """Return the CT on the locator's grid: upright in the world, 4 x 4 x 3 mm, around the body.

    Values are float32 in HU, -1024 where the CT does not reach.
    """
    fine = np.array(LOCATOR_SPACING_MM) / OVERSAMPLE
    spacing = voxel_spacing(image.affine)
    i, j, k = (max(1, int(most / step + 1e-6)) for most, step in zip(fine, spacing, strict=True))
    blocks = (i, j, k)
    smaller = Image(block_mean(image.values, blocks), block_affine(image.affine, blocks))
    shape, affine = upright_grid(smaller, body_box(smaller.values))
    return Image(sample_means(smaller, shape, affine), affine)


def body_box(hu: npt.NDArray[Any]) -> Region:
    """Return the box of the planes of a CT (HU) that hold body; the whole where none does."""
    solid = hu > _BODY_HU
    sides = []
    for axis, size in enumerate(solid.shape):
        counts = np.count_nonzero(solid, axis=tuple(n for n in range(3) if n != axis))
        hit = np.flatnonzero(counts > _MIN_SHARE * max(int(counts.max()), 1))
        sides.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, size))
    return sides[0], sides[1], sides[2]


def upright_grid(image: Image, box: Region) -> tuple[tuple[int, int, int], Affine]:
    """Return shape and affine of the locator's grid that covers a box of an image.

    Its axes are the world's (RAS+); the axes of the image change nothing.
    """
    ends = [(side.start - 0.5, side.stop - 0.5) for side in box]
    corners = world_positions(image.affine, np.array(list(product(*ends))))
    spacing = np.array(LOCATOR_SPACING_MM)
    low = np.round(corners.min(axis=0), 3) - _MARGIN_MM
    high = corners.max(axis=0) + _MARGIN_MM
    i, j, k = (int(n) for n in np.ceil(np.round((high - low) / spacing, 3)))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low + spacing / 2
    return (i, j, k), affine


def sample_means(
    image: Image, shape: tuple[int, int, int], affine: Affine
) -> npt.NDArray[np.float32]:
    """Return the means (x, y, z) of an image over the voxels of another grid, float32.

    Each voxel is the mean of 2 x 2 x 2 samples inside it, each interpolated linearly: the image's
    own voxels should not be much finer than half of the grid's. Where a voxel's middle lies outside
    the image it is -1024.
    """
    to_source = np.linalg.inv(image.affine) @ affine
    inner = np.diag([1 / OVERSAMPLE] * 3 + [1.0])
    inner[:3, 3] = (1 / OVERSAMPLE - 1) / 2
    matrix = to_source @ inner
    out = np.empty(shape, dtype=np.float32)
    planes = max(1, 8_000_000 // (shape[0] * shape[1] * OVERSAMPLE**3))
    for start in range(0, shape[2], planes):
        stop = min(start + planes, shape[2])
        fine = ndimage.affine_transform(
            image.values,
            matrix[:3, :3],
            offset=matrix[:3, 3] + matrix[:3, 2] * start * OVERSAMPLE,
            output_shape=tuple(OVERSAMPLE * n for n in (shape[0], shape[1], stop - start)),
            output=np.float32,
            order=1,
            mode="nearest",
        )
        out[:, :, start:stop] = block_mean(fine, (OVERSAMPLE,) * 3)
    out[~covered(image.values.shape, to_source, shape)] = MIN_HU
    return out


def covered(
    source_shape: tuple[int, ...], to_source: Affine, shape: tuple[int, int, int]
) -> npt.NDArray[np.bool_]:
    """Return which voxels (x, y, z) of a grid have their middle in another, the source.

    ``to_source`` leads from indices of the grid to those of the source.
    """
    x, y, z = (np.arange(n, dtype=np.float64) for n in shape)
    inside = np.ones(shape, dtype=bool)
    for row, size in zip(to_source[:3], source_shape, strict=True):
        place = (row[0] * x)[:, None, None] + (row[1] * y)[:, None] + row[2] * z + row[3]
        inside &= (place >= -0.5 - 1e-6) & (place <= size - 0.5 + 1e-6)
    return inside


def patch_affine(centre: npt.NDArray[np.float64], up: npt.NDArray[np.float64]) -> Affine:
    """Return the affine of a patch round a vertebra, in the vertebra's own frame.

    z runs up the spine, x is the patient's right as far as it is square to z, y completes them
    to the front. The middle of the patch lies in ``centre`` (mm, RAS+); ``up`` points to the head.
    """
    z = up / np.linalg.norm(up)
    x = np.array([1.0, 0.0, 0.0]) - z * z[0]
    x /= np.linalg.norm(x)
    axes = np.stack([x, np.cross(z, x), z], axis=1) * PATCH_SPACING_MM
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = centre - axes @ ((np.array(PATCH_SHAPE) - 1) / 2)
    return affine


def sample_at(
    values: npt.NDArray[Any], affine: Affine, points: Points, outside: float = 0.0
) -> npt.NDArray[np.float64]:
    """Interpolate an image linearly at points (…, 3) in mm; ``outside`` beyond its middles."""
    index = np.moveaxis(world_positions(np.linalg.inv(affine).astype(float), points), -1, 0)
    out: npt.NDArray[np.float64] = ndimage.map_coordinates(
        values, index, output=np.float64, order=1, mode="constant", cval=outside
    )
    return out


def on_grid(
    values: npt.NDArray[Any], affine: Affine, box: Region, target: Affine
) -> npt.NDArray[np.float32]:
    """Interpolate an image linearly on a box of the grid ``target``; 0 outside the image."""
    matrix = np.linalg.inv(affine) @ target
    out: npt.NDArray[np.float32] = ndimage.affine_transform(
        values,
        matrix[:3, :3],
        offset=matrix[:3, :3] @ [side.start for side in box] + matrix[:3, 3],
        output_shape=tuple(side.stop - side.start for side in box),
        output=np.float32,
        order=1,
        mode="constant",
    )
    return out


def box_around(points: Points, affine: Affine, shape: tuple[int, ...]) -> Region | None:
    """Return the box of a grid's voxels that holds points (n, 3) in mm, or None outside."""
    index = world_positions(np.linalg.inv(affine).astype(float), points)
    low = np.clip(np.floor(index.min(axis=0)).astype(int), 0, shape)
    high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, shape)
    if (high <= low).any():
        return None
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k
