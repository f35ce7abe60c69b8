"""Derive the vertebral body from a whole-vertebra label by geometry in millimetres.

Segmentation tools label a vertebra with its arch and processes; the study's mask is the body
alone. Level by level (``docs/masks.md`` describes it for users):

1. *Core*: voxels deeper than a radius that pedicles and processes do not reach (6.5 mm, or less
   in a small or crushed body); the largest piece is the inside of the body.
2. *Frame*: the cranial axis follows the line through the cores of neighbouring levels, the
   posterior direction points from the core to the centroid of the whole label.
3. *Wall*: near the midline nothing but the canal lies behind the body, so rays from the core
   backwards leave the label at the posterior wall; a line over the heights gives its place and
   tilt.
4. *Body*: label voxels in front of the wall that the core reaches within its radius and a little
   more (a morphological opening that leaves the corners), largest piece only.

Everything is measured in world millimetres, so flipped, permuted, oblique and anisotropic grids
are treated alike. A label that ends at the edge of the volume is taken to continue beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.case.checks.fragments import largest_piece
from monai_vfx.core.anatomy import LEVEL_NAMES
from monai_vfx.core.arrays import Affine, BoolVolume, LabelVolume, Points, Region
from monai_vfx.core.geometry import box_affine, voxel_spacing, world_positions

CORE_MM = 6.5
"""Depth below the surface, in mm, that the body's inside has and pedicles and processes lack."""

CORE_SHARE = 0.6
"""The same as a share of the level's maximum depth: the smaller of the two counts."""

CORNER_MM = 4.0
"""How far beyond the opened core, in mm, the body's corners and rims may lie."""

WALL_MM = 1.0
"""How far behind the wall's fitted line the body may reach, in mm: the endplates' rims flare."""

MIDLINE_MM = 6.0
"""Half width of the strip behind which only the canal lies, in mm."""

ARCH_MM = 10.0
"""Voxels further behind the wall than this, in mm, belong to the arch and its processes."""

ARCH_SHARE = 0.05
"""Minimum share of voxels behind ``ARCH_MM`` in a file of whole vertebrae."""

_WORKING_MM = 1.6  # distance maps of finer grids are computed on every n-th voxel up to this step
_STRAY_MM = 25.0  # a core this far off its neighbours' line is an arch whose body is out of view
_ROTATION_COS = np.cos(np.radians(25.0))  # a level's own direction is not trusted beyond this
_MAX_TILT = 0.5  # mm of wall per mm of height


@dataclass(frozen=True)
class _Vertebra:
    """One level: its label in a box, its core and, once known, its frame and wall."""

    value: int
    box: Region
    label: BoolVolume
    affine: Affine  # of the box
    reach: npt.NDArray[np.float64]  # distance to the core on the coarse grid, mm
    stride: tuple[int, int, int]
    radius: float  # mm
    centre: npt.NDArray[np.float64]  # of the core, world mm
    arm: npt.NDArray[np.float64]  # from the core to the whole label's centroid, mm


@dataclass(frozen=True)
class _Frame:
    """Axes of a level and its posterior wall: depth = at + tilt · height, in mm from the core."""

    up: npt.NDArray[np.float64]
    back: npt.NDArray[np.float64]
    at: float
    tilt: float


def derive_bodies(labels: LabelVolume, affine: Affine) -> LabelVolume:
    """Keep the vertebral bodies of whole-vertebra labels.

    Args:
        labels: (i, j, k) with VerSe numbers; other values, such as muscles, pass unchanged.
        affine: (4, 4) index → world mm, RAS+.

    Returns:
        (i, j, k): the bodies under the same numbers. A level of which only the arch is in the
        volume has no voxel left.
    """
    return _cut(labels, _measure(labels, affine))


def bodies_if_whole(labels: LabelVolume, affine: Affine) -> LabelVolume | None:
    """Return what :func:`derive_bodies` does where the labels hold whole vertebrae, else None.

    One answer for the whole file, so that a level whose arch is cut by the field of view is
    treated like the others: in whole vertebrae at least ``ARCH_SHARE`` of the voxels lie more than
    ``ARCH_MM`` behind the posterior walls.
    """
    measured = _measure(labels, affine)
    return _cut(labels, measured) if _arch_share(measured) >= ARCH_SHARE else None


def _measure(labels: LabelVolume, affine: Affine) -> list[tuple[_Vertebra, _Frame]]:
    """Find core, frame and wall of every level whose body is in the volume."""
    boxes = enumerate(ndimage.find_objects(labels), start=1)
    vertebrae = _without_strays(
        [
            _vertebra(labels, affine, value, box)
            for value, box in boxes
            if box is not None and value in LEVEL_NAMES
        ]
    )
    backs = _posterior_directions(vertebrae)
    return [
        (vertebra, _frame(vertebra, up, back))
        for vertebra, up, back in zip(vertebrae, _axes(vertebrae), backs, strict=True)
    ]


def _vertebra(
    labels: LabelVolume, affine: Affine, value: int, inner: tuple[slice, ...]
) -> _Vertebra:
    """Find the core of one level."""
    spacing = voxel_spacing(affine)
    stride = [max(1, int(_WORKING_MM / step)) for step in spacing]
    # One step of background on every side, but none where the volume itself ends.
    first, second, third = (
        slice(max(side.start - step, 0), min(side.stop + step, size))
        for side, step, size in zip(inner, stride, labels.shape, strict=True)
    )
    box: Region = (first, second, third)
    label = labels[box] == value
    steps = (stride[0], stride[1], stride[2])
    coarse = label[:: steps[0], :: steps[1], :: steps[2]]
    sampling = spacing * steps
    depth = ndimage.distance_transform_edt(coarse, sampling=sampling)
    radius = min(CORE_MM, CORE_SHARE * float(depth.max()))
    core = largest_piece(depth > radius)[0] if depth.max() > 0 else label
    local = box_affine(affine, box)
    centre = world_positions(local, np.argwhere(core).mean(axis=0) * steps)
    return _Vertebra(
        value=value,
        box=box,
        label=label,
        affine=local,
        reach=ndimage.distance_transform_edt(~core, sampling=sampling),
        stride=steps,
        radius=radius,
        centre=centre,
        arm=world_positions(local, np.argwhere(label).mean(axis=0)) - centre,
    )


def _without_strays(found: list[_Vertebra]) -> list[_Vertebra]:
    """Drop end levels whose core lies far off the line of their two neighbours.

    Where a body is out of view and its arch still in it, the arch's thickest part takes the
    core's place some 40 mm behind the line.
    """
    kept = sorted(found, key=lambda vertebra: vertebra.value)
    for end, inner, next_inner in ((0, 1, 2), (-1, -2, -3)):
        if len(kept) < 4:
            break
        a, b, c = (kept[place].centre for place in (end, inner, next_inner))
        along = (b - c) / np.linalg.norm(b - c)
        offset = a - b
        if np.linalg.norm(offset - along * (offset @ along)) > _STRAY_MM:
            kept.pop(end)
    return kept


def _axes(vertebrae: list[_Vertebra]) -> Points:
    """Return the cranial direction at each level, along the line through the cores."""
    if len(vertebrae) < 2:
        return np.tile([0.0, 0.0, 1.0], (len(vertebrae), 1))
    centres = np.array([vertebra.centre for vertebra in vertebrae])
    steps = -np.gradient(centres, axis=0)  # VerSe numbers grow caudally
    return _unit(steps)


def _unit(vectors: Points) -> Points:
    """Scale vectors (…, 3) to length one."""
    scaled: Points = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def _posterior_directions(vertebrae: list[_Vertebra]) -> Points:
    """Return the posterior direction at each level, not yet square to the axis.

    A level's own direction is kept where it agrees with the others; a cut level or a label
    without arch takes the common one, and labels without any arch the patient's posterior.
    """
    arms = np.array([vertebra.arm for vertebra in vertebrae]).reshape(-1, 3)
    arms[:, 2] = 0.0  # the spinous processes hang down: their height says nothing of direction
    long = np.linalg.norm(arms, axis=1) > 5.0  # mm
    common = np.array([0.0, -1.0, 0.0])
    if long.any():
        common = _unit(np.median(_unit(arms[long]), axis=0))
    own = long & (arms @ common > _ROTATION_COS * np.linalg.norm(arms, axis=1))
    return np.where(own[:, None], arms, common)


def _frame(vertebra: _Vertebra, up: npt.NDArray[np.float64], back: Points) -> _Frame:
    """Find the posterior wall of one level."""
    back = _unit(back - up * (back @ up))
    side = np.cross(up, back)
    step = float(np.clip(voxel_spacing(vertebra.affine).min() / 2, 0.5, 1.5))
    heights = np.arange(-30.0, 30.0 + step, step)
    depths = np.arange(0.0, 40.0, step)
    offsets = np.linspace(-MIDLINE_MM, MIDLINE_MM, 7)
    points = (
        vertebra.centre
        + heights[:, None, None, None] * up
        + offsets[:, None, None] * side
        + depths[:, None] * back
    )
    inverse = np.asarray(np.linalg.inv(vertebra.affine), dtype=np.float64)
    inside: npt.NDArray[np.float32] = ndimage.map_coordinates(
        vertebra.label.astype(np.float32),
        np.moveaxis(world_positions(inverse, points), -1, 0),
        order=1,
        mode="nearest",
    )
    at, tilt = _fit_wall(heights, _exits(inside, depths))
    return _Frame(up=up, back=back, at=at, tilt=tilt)


def _exits(
    inside: npt.NDArray[np.float32], depths: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the depth at which each ray (last axis) leaves the label, NaN where it does not."""
    out = inside < 0.5
    last = np.argmax(out, axis=-1)
    valid = (last > 0) & out.any(axis=-1)
    last = np.maximum(last, 1)
    before = np.take_along_axis(inside, last[..., None] - 1, axis=-1)[..., 0]
    after = np.take_along_axis(inside, last[..., None], axis=-1)[..., 0]
    share = (before - 0.5) / np.maximum(before - after, 1e-6)
    exits = depths[last - 1] + share * (depths[1] - depths[0])
    return np.where(valid, exits, np.nan)


def _fit_wall(
    heights: npt.NDArray[np.float64], exits: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Fit depth = at + tilt · height to the exits (heights, rays), robustly.

    The outer sixths of the heights are left out, as corners are round, and so are points that
    lie far from a first fit (the basivertebral vein's notch, a bony bar over the canal).
    """
    rows = np.isfinite(exits).mean(axis=1) >= 0.5
    if not rows.any():
        return float("inf"), 0.0
    z = heights[rows]
    y = np.nanmedian(exits[rows], axis=1)
    low, high = np.quantile(z, [1 / 6, 5 / 6])
    middle = (z >= low) & (z <= high)
    z, y = z[middle], y[middle]
    if np.ptp(z) < 8.0:  # too little height to know a tilt
        return float(np.median(y)), 0.0
    keep = np.ones(len(z), dtype=bool)
    tilt, at = 0.0, float(np.median(y))
    for _ in range(3):
        tilt, at = np.polyfit(z[keep], y[keep], 1)
        tilt = float(np.clip(tilt, -_MAX_TILT, _MAX_TILT))
        at = float(np.median(y[keep] - tilt * z[keep]))
        residual = np.abs(y - at - tilt * z)
        closer = residual <= max(1.5, 2.5 * float(np.median(residual)))
        if closer.sum() < 4:
            break
        keep = closer
    return at, float(tilt)


def _behind_wall(vertebra: _Vertebra, frame: _Frame, index: npt.NDArray[np.intp]) -> Points:
    """Return how far voxels (n, 3) of the box lie behind the wall, in mm."""
    offset = world_positions(vertebra.affine, index) - vertebra.centre
    behind: Points = offset @ frame.back - frame.at - frame.tilt * (offset @ frame.up)
    return behind


def _arch_share(measured: list[tuple[_Vertebra, _Frame]]) -> float:
    """Return the share of all label voxels that lie more than ``ARCH_MM`` behind the walls."""
    behind = total = 0
    for vertebra, frame in measured:
        depth = _behind_wall(vertebra, frame, np.argwhere(vertebra.label))
        behind += int((depth > ARCH_MM).sum())
        total += depth.size
    return behind / total if total else 0.0


def _cut(labels: LabelVolume, measured: list[tuple[_Vertebra, _Frame]]) -> LabelVolume:
    """Write the bodies of the measured levels over the labels."""
    out = np.where(np.isin(labels, list(LEVEL_NAMES)), 0, labels)
    for vertebra, frame in measured:
        index = np.argwhere(vertebra.label)
        reach = ndimage.map_coordinates(
            vertebra.reach, (index / vertebra.stride).T, order=1, mode="nearest"
        )
        keep = (_behind_wall(vertebra, frame, index) <= WALL_MM) & (
            reach <= vertebra.radius + CORNER_MM
        )
        body = np.zeros_like(vertebra.label)
        body[tuple(index[keep].T)] = True
        out[vertebra.box][largest_piece(body)[0]] = vertebra.value
    return out
