"""Anterior, middle and posterior height of vertebral bodies, from a mask of the bodies.

The method, body by body, in world millimetres (for users: ``docs/morphometry.md``):

1. *Surface*: the signed distance to the label's edge, interpolated linearly between voxels. Where
   an endplate crosses the slices at an angle it is smooth instead of a staircase.
2. *Frame*: the body's axes. Left-right is the patient's, turned with the body's cross-section;
   cranial is square to the plane through the middles of all columns between the endplates, so
   that a wedge is measured along the bisector of its endplates.
3. *Columns*: in the central 40 % of the width, first to last crossing of the surface along the
   cranial axis, a grid of columns in front-back and left-right.
4. *Heights*: the median column of the anterior, middle and posterior 15 % of the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.case.checks.fragments import largest_piece
from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, BoolVolume, LabelVolume, Points, Region
from monai_vfx.core.geometry import box_affine, nonzero_box, voxel_spacing

MEASURED: tuple[str, ...] = ("T11", *LEVELS)
"""Levels that are measured, cranial to caudal; T11 only as T12's neighbour."""
WIDTH_SHARE = 0.40
"""Share of the body's width, in its middle, that is measured."""
DEPTH_SHARE = 0.15
"""Share of the body's depth that each of the three heights is the median of."""
HEIGHT_RANGE_MM = (5.0, 60.0)
"""No height of a vertebral body T11-L4 lies outside."""

_COLUMN_MM = 0.5  # distance of columns, and of samples along them
_REACH_MM = 6.0  # the surface is looked for so far around the voxels
_MAX_TURN_COS = np.cos(np.radians(30.0))  # no body is turned more
_ROUNDS = 4  # the frame settles within two or three

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BodyHeights:
    """The three heights of a body and where they were taken.

    Attributes:
        anterior_mm: median column of the anterior 15 % of the depth, mm.
        middle_mm: likewise of the middle 15 %.
        posterior_mm: likewise of the posterior 15 %.
        centre: (3,) middle of the measured part, mm RAS.
        up: (3,) cranial axis of the body, of length one.
        lines: (3, 2, 3) lower and upper end of each height in the body's mid-sagittal plane, in
            the order anterior, middle, posterior; mm RAS.
    """

    anterior_mm: float
    middle_mm: float
    posterior_mm: float
    centre: Vector
    up: Vector
    lines: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Surface:
    """Signed distance to a body's edge, positive inside, on a box of voxels."""

    distance: npt.NDArray[np.float32]
    inverse: Affine  # world mm → index of the box
    points: Points  # of the body's voxels, mm


@dataclass(frozen=True)
class _Frame:
    """Right-handed axes of a body, of length one, and its middle."""

    centre: Vector
    right: Vector
    front: Vector
    up: Vector


def measure_heights(
    labels: LabelVolume, affine: Affine, cut: Sequence[str] = ()
) -> tuple[dict[str, BodyHeights], dict[str, str]]:
    """Return the heights of the bodies of T11-L4 by level, and why the other levels have none.

    Args:
        labels: (i, j, k) bodies under VerSe numbers (:class:`monai_vfx.case.mask.load.Masks`).
        affine: (4, 4) index → world mm, RAS+.
        cut: levels known to be cut by the field of view.
    """
    around = nonzero_box(labels)
    boxes: list[Region | None] = [None] * max(VERTEBRAE.values())
    if around is not None:
        # None stands for a label that is absent.
        found = cast(list[Any], ndimage.find_objects(labels[around], max_label=len(boxes)))
        boxes = [None if box is None else _shifted(box, around) for box in found]
    centres = _centres(labels, affine, boxes)
    heights: dict[str, BodyHeights] = {}
    reasons: dict[str, str] = {}
    for level in MEASURED:
        box = boxes[VERTEBRAE[level] - 1]
        if box is None:
            reasons[level] = "not in the mask"
        elif level in cut or _touches_edge(box, labels.shape):
            reasons[level] = "cut by the field of view"
        else:
            body, _ = largest_piece(labels[box] == VERTEBRAE[level], np.ones((3, 3, 3), dtype=bool))
            up = _spine_direction(centres, VERTEBRAE[level])
            measured = measure_body(body, box_affine(affine, box), up)
            if measured is None:
                reasons[level] = "not measurable: the label is no vertebral body"
            else:
                heights[level] = measured
    return heights, reasons


def measure_body(
    body: BoolVolume, affine: Affine, up: npt.ArrayLike = (0.0, 0.0, 1.0)
) -> BodyHeights | None:
    """Return the heights of one body; None where they cannot be measured or lie outside 5-60 mm.

    Args:
        body: (i, j, k), true inside; the body does not reach beyond the array.
        affine: (4, 4) index → world mm, RAS+.
        up: (3,) cranial direction to begin with, within about 30° of the body's own.
    """
    if body.sum() < 8:
        return None
    surface = _surface(body, affine)
    frame = _first_frame(surface.points, np.asarray(up, np.float64))
    columns = None
    for _ in range(_ROUNDS):
        columns = _columns(surface, frame)
        if columns is None:
            return None
        frame = _levelled(frame, *columns)
    columns = _columns(surface, frame)
    return None if columns is None else _three_heights(frame, *columns)


def _shifted(box: Region, around: Region) -> Region:
    i, j, k = (
        slice(outer.start + side.start, outer.start + side.stop)
        for side, outer in zip(box, around, strict=True)
    )
    return i, j, k


def _touches_edge(box: Region, shape: tuple[int, ...]) -> bool:
    return any(side.start == 0 or side.stop == size for side, size in zip(box, shape, strict=True))


def _centres(
    labels: LabelVolume, affine: Affine, boxes: Sequence[Region | None]
) -> dict[int, Vector]:
    """Return the centroid of each labelled body T11-L5, mm."""
    centres = {}
    for name in (*MEASURED, "L5"):
        box = boxes[VERTEBRAE[name] - 1]
        if box is not None:
            index = np.argwhere(labels[box] == VERTEBRAE[name]).mean(axis=0)
            local = box_affine(affine, box)
            centres[VERTEBRAE[name]] = local[:3, :3] @ index + local[:3, 3]
    return centres


def _spine_direction(centres: dict[int, Vector], value: int) -> Vector:
    """Return the cranial direction at a level: the line through its neighbours' centroids."""
    above = centres.get(value - 1, centres[value])
    below = centres.get(value + 1, centres[value])
    along = above - below
    length = float(np.linalg.norm(along))
    return np.array([0.0, 0.0, 1.0]) if length == 0 else np.asarray(along / length)


def _surface(body: BoolVolume, affine: Affine) -> _Surface:
    spacing = voxel_spacing(affine)
    margin = [int(np.ceil(_REACH_MM / step)) + 1 for step in spacing]
    padded = np.pad(body, [(m, m) for m in margin])
    distance = ndimage.distance_transform_edt(padded, sampling=spacing)
    distance -= ndimage.distance_transform_edt(~padded, sampling=spacing)
    local = np.array(affine, np.float64)
    local[:3, 3] -= affine[:3, :3] @ margin
    points = np.argwhere(body) @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.asarray(np.linalg.inv(local), np.float64)
    return _Surface(distance.astype(np.float32), inverse, points)


def _first_frame(points: Points, up: Vector) -> _Frame:
    """Return axes along the spine, turned about it with the body's cross-section.

    A body is wider than deep; where its cross-section is not clearly so, or points far from the
    patient's left-right, the patient's left-right is used.
    """
    up = up / np.linalg.norm(up)
    right = _square(np.array([1.0, 0.0, 0.0]), up)
    front = np.cross(up, right)
    flat = (points - points.mean(axis=0)) @ np.stack([right, front], axis=1)
    variances, axes = np.linalg.eigh(np.cov(flat.T))
    long = axes[:, 1] * np.sign(axes[0, 1] or 1.0)
    if variances[1] > 1.2 * variances[0] and long[0] > _MAX_TURN_COS:
        right = long[0] * right + long[1] * front
    return _Frame(points.mean(axis=0), right, np.cross(up, right), up)


def _square(vector: Vector, axis: Vector) -> Vector:
    """Return the part of a vector that is square to an axis, of length one."""
    rest = vector - axis * (vector @ axis)
    return np.asarray(rest / np.linalg.norm(rest))


def _columns(surface: _Surface, frame: _Frame) -> tuple[Vector, Vector, Vector, Vector] | None:
    """Return the columns of the central part that meet the body.

    Returns:
        (n,) each: place to the right and to the front of the frame's centre, lower and upper end
        along its cranial axis; mm. None where there are too few.
    """
    place = (surface.points - frame.centre) @ np.stack([frame.right, frame.front, frame.up], 1)
    low, high = place.min(axis=0), place.max(axis=0)
    middle, half = (low[0] + high[0]) / 2, WIDTH_SHARE * (high[0] - low[0]) / 2
    count = int(np.ceil(half / _COLUMN_MM))
    across = middle + np.linspace(-half, half, 2 * count + 1)
    along = np.arange(low[1] - _COLUMN_MM, high[1] + 2 * _COLUMN_MM, _COLUMN_MM)
    upward = np.arange(low[2] - _REACH_MM, high[2] + _REACH_MM, _COLUMN_MM)
    points = (
        frame.centre
        + across[:, None, None, None] * frame.right
        + along[:, None, None] * frame.front
        + upward[:, None] * frame.up
    )
    index = points @ surface.inverse[:3, :3].T + surface.inverse[:3, 3]
    values = ndimage.map_coordinates(
        surface.distance, np.moveaxis(index, -1, 0), order=1, mode="nearest"
    ).reshape(-1, len(upward))
    hit = (values > 0).any(axis=1)
    if hit.sum() < 12:
        return None
    bottom, top = _crossings(values[hit], upward)
    grid = np.stack(np.meshgrid(across, along, indexing="ij"), axis=-1).reshape(-1, 2)[hit]
    # The wisps at the body's edge are no columns between endplates.
    keep = top - bottom > 0.5 * float(np.median(top - bottom))
    return grid[keep, 0], grid[keep, 1], bottom[keep], top[keep]


def _crossings(values: npt.NDArray[np.float32], upward: Vector) -> tuple[Vector, Vector]:
    """Return where each row first rises above and last falls below 0, interpolated."""
    inside = values > 0
    rows = np.arange(len(values))
    first = np.maximum(inside.argmax(axis=1), 1)
    last = np.minimum(values.shape[1] - 1 - inside[:, ::-1].argmax(axis=1), values.shape[1] - 2)
    step = upward[1] - upward[0]

    def cross(outer: npt.NDArray[np.intp], inner: npt.NDArray[np.intp]) -> Vector:
        below, above = values[rows, outer], values[rows, inner]
        share = np.clip(-below / np.maximum(above - below, 1e-6), 0.0, 1.0)
        return np.asarray(upward[outer] + (inner - outer) * share * step)

    return cross(first - 1, first), cross(last + 1, last)


def _levelled(frame: _Frame, right: Vector, front: Vector, bottom: Vector, top: Vector) -> _Frame:
    """Turn the frame so that the plane through the columns' middles is level.

    The outer columns are left out: in a frame that is still tilted the walls cut them short.
    """
    low, high = front.min(), front.max()
    inner = np.abs(front - (low + high) / 2) <= 0.35 * (high - low)
    design = np.stack([np.ones(inner.sum()), front[inner], right[inner]], axis=1)
    middles = (bottom[inner] + top[inner]) / 2
    level, by_front, by_right = np.linalg.lstsq(design, middles, rcond=None)[0]
    up = frame.up - by_front * frame.front - by_right * frame.right
    up = up / np.linalg.norm(up)
    side = _square(frame.right, up)
    middle_right, middle_front = (right.min() + right.max()) / 2, (low + high) / 2
    height = level + by_front * middle_front + by_right * middle_right
    centre = (
        frame.centre + middle_right * frame.right + middle_front * frame.front + height * frame.up
    )
    return _Frame(np.asarray(centre), side, np.cross(up, side), np.asarray(up))


def _three_heights(
    frame: _Frame, right: Vector, front: Vector, bottom: Vector, top: Vector
) -> BodyHeights | None:
    low, high = float(front.min()), float(front.max())
    depth = high - low
    heights, lines = [], []
    for share in (1 - DEPTH_SHARE / 2, 0.5, DEPTH_SHARE / 2):
        place = low + share * depth
        here = np.abs(front - place) <= DEPTH_SHARE * depth / 2 + 1e-9
        if not here.any():
            return None
        height = float(np.median((top - bottom)[here]))
        middle = float(np.median((top + bottom)[here])) / 2
        foot = frame.centre + place * frame.front + (middle - height / 2) * frame.up
        heights.append(height)
        lines.append(np.stack([foot, foot + height * frame.up]))
    if min(heights) < HEIGHT_RANGE_MM[0] or max(heights) > HEIGHT_RANGE_MM[1]:
        return None
    anterior, middle_height, posterior = heights
    return BodyHeights(anterior, middle_height, posterior, frame.centre, frame.up, np.stack(lines))
