"""Ribs with their cartilages, sternum and shoulder girdle as solids. RAS mm.

A rib's head lies at the back corner of its body: at the disc above for ribs 2-9, at its own body
for the first and the last ones. The neck runs to the transverse process (ribs 1-10) and the shaft
follows the wall of the trunk, downwards as it goes round. The drop per rib is chosen so that the
ribs 10-12 of one annotated scan are met within about 15 mm.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.interpolate import CubicSpline

from monai_vfx.vertebrae.training.anatomy.label_map import Rod, Shape, Solid, Vector, mm, solid
from monai_vfx.vertebrae.training.anatomy.skeleton import Vertebra
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue
from monai_vfx.vertebrae.training.anatomy.trunk import Trunk

_DROP = (28.0, 45.0, 58.0, 68.0, 77.0, 84.0, 92.0, 98.0, 106.0, 118.0, 148.0, 140.0, 140.0)
"""How far ribs 1-13 would sink from the tubercle to 130° round the trunk, mm."""
_END = (125.0, 138.0, 142.0, 143.0, 142.0, 140.0, 137.0, 130.0, 121.0, 110.0, 100.0, 100.0, 100.0)
"""How far round the trunk ribs 1-13 go, degrees from the back; the last end by their length."""
RIB_LAYERS = ((Tissue.RIB_CORTEX, 0.0), (Tissue.RIB_MARROW, 1.7))


def rib_path(
    vertebra: Vertebra, side: int, trunk: Trunk, length: float | None, slope: float = 1.0
) -> Vector:
    """Return points (n, 3) along a rib, about 8 mm apart, from the head on.

    ``side`` is 1 on the patient's right, -1 on the left; ``length`` in mm, None for as far as the
    cartilage; ``slope`` is the steepness relative to the usual one.
    """
    number = int(vertebra.name[1:]) if vertebra.name[0] == "T" else 12
    floating = number > 10
    body, size = vertebra.frame, vertebra.size
    half_w, half_d = vertebra.half_width, vertebra.half_depth
    up = size.height / 2
    head = up + size.disc / 2 if 2 <= number <= 9 else 0.55 * up if number == 1 else 0.45 * up
    corner = body.world(side * half_w * 0.90, -half_d * 0.60, head)
    if floating:
        reach = half_w + 9
        tubercle = body.world(side * reach, -(half_d + 10), 0.2 * up)
    else:
        reach = max(size.process, half_w + 6) + 1
        tubercle = body.world(side * reach, -(0.9 * half_d + 17.5 * vertebra.span), 7.0)
    middle = (corner + tubercle) / 2 + body.axes @ (0, -1.5, 1.0)
    index = min(number, 13) - 1
    first = np.deg2rad(24.0 if number > 2 else 45.0)
    angle = np.linspace(first, np.deg2rad(_END[index]), 24)
    fall = (angle - first * 0.6) / (np.deg2rad(130.0) - first * 0.6)
    size_scale = trunk.habitus.size * slope
    z = tubercle[2] - _DROP[index] * size_scale * np.clip(fall, 0, 1.3) ** 0.9
    x, y = trunk.section(z, angle, side, grow=4.5)
    points = np.vstack([corner, middle, tubercle, np.column_stack([x, y, z])])
    steps = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    curve = CubicSpline(steps, points)
    total = steps[-1] if length is None else min(length, steps[-1])
    return np.asarray(curve(np.linspace(0, total, max(3, round(total / 8)))))


def rib_parts(path: Vector, trunk: Trunk, number: int, thick: float) -> tuple[Shape, ...]:
    """Return the rods of a rib: round at its head and neck, flat along its shaft."""
    parts: list[Shape] = []
    ends = np.linspace(0, 1, len(path))
    for i, (start, end) in enumerate(itertools.pairwise(path)):
        along = i * float(np.linalg.norm(end - start))
        x, y, _, front, back = trunk.at(float(start[2]))
        outward = mm(start[0] - x, start[1] - (y + (front - back) / 2), 0.0)
        outward /= max(float(np.linalg.norm(outward)), 1e-6)
        if number == 1:  # the first rib lies flat, like a ring
            outward = mm(0.0, 0.0, 1.0)
        shaft = float(np.clip((along - 18) / 20, 0, 1))
        radius = (4.0 + 2.2 * shaft) * thick
        if number > 10:
            radius *= 1.0 - 0.35 * ends[i] ** 2
        parts.append(Rod(start, end, radius, flat=outward, ratio=1 + 0.7 * shaft))
    return tuple(parts)


def make_ribs(
    spine: list[Vertebra],
    lengths: dict[str, tuple[float | None, float | None]],
    trunk: Trunk,
    slope: float,
    thick: float,
) -> tuple[list[Solid], dict[tuple[str, int], Vector]]:
    """Return all ribs as solids, and their paths by (level, side).

    ``lengths`` are level → (right, left) in mm, None for a whole rib, 0 for none; slope and
    thickness are relative to the usual ones.
    """
    solids, paths = [], {}
    for vertebra in spine:
        for side, length in zip((1, -1), lengths.get(vertebra.name, (0.0, 0.0)), strict=True):
            if length == 0.0:
                continue
            path = rib_path(vertebra, side, trunk, length, slope)
            number = int(vertebra.name[1:]) if vertebra.name[0] == "T" else 13
            paths[vertebra.name, side] = path
            solids.append(Solid(rib_parts(path, trunk, number, thick), RIB_LAYERS))
    return solids, paths


def path_length(path: Vector) -> float:
    """Return the length of a path of points (n, 3), mm."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def make_sternum(paths: dict[tuple[str, int], Vector], trunk: Trunk, size: float) -> list[Solid]:
    """Return costal cartilages and the sternum."""
    tops = [paths[f"T{n}", side][-1] for n in (1, 2) for side in (1, -1)]
    notch = np.mean(tops, axis=0) + mm(0.0, 0.0, 4.0)
    notch[1] = max(point[1] for point in tops) + 4
    low = paths["T7", 1][-1][2] + 25 * size
    x, y, _, front, _ = trunk.at(low)
    tip = mm(x, y + front + 5, low)
    flat = mm(0.0, 1.0, 0.0)
    sternum = []
    for dx in (-8.0, 8.0):
        start, end = notch + mm(dx, 0.0, 0.0), tip + mm(dx * 0.6, 0.0, 0.0)
        sternum.append(Rod(start, end, 11.0 * size, 9.0, flat, 2.0))
    solids = []
    margin: dict[int, Vector] = {}
    for number in range(1, 11):
        for side in (1, -1):
            if (f"T{number}", side) not in paths:
                continue
            end = paths[f"T{number}", side][-1]
            if number <= 7:
                share = (number - 0.5) / 6.8
                goal = notch + share * (tip - notch) + mm(side * 14.0, 0.0, 0.0)
            else:
                goal = margin[side]
            middle = (end + goal) / 2
            _, y, _, front, _ = trunk.at(float(middle[2]))
            middle[1] = max(middle[1], 0.5 * middle[1] + 0.5 * float(y + front)) - 2
            if number >= 6:
                middle[2] = min(middle[2], end[2] + 6)
            margin[side] = (middle + goal) / 2 if number >= 7 else middle
            rods = (Rod(end, middle, 5.5 * size), Rod(middle, goal, 5.5 * size, 4.5))
            solids.append(solid(Tissue.COSTAL_CARTILAGE, *rods))
    layers = ((Tissue.LIMB_CORTEX, 0.0), (Tissue.LIMB_MARROW, 1.6))
    return [*solids, Solid(tuple(sternum), layers, blend=4.0)]
