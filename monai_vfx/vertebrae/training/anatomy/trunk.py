"""The outline of a trunk along the spine: the cavity, the muscular wall and the skin. RAS mm.

Everything that follows the wall (ribs, lungs, organs, fat) reads its place here. The sizes are
those of an adult of about 170 cm, read off published cross-sections and one annotated scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from monai_vfx.vertebrae.training.anatomy.label_map import Column, Vector
from monai_vfx.vertebrae.training.anatomy.skeleton import Vertebra

#: landmark: half width, front and back of the cavity; half width, front and back of the wall.
#: Front and back count from the centre of the vertebral body (pelvis: of S1).
_PROFILE: dict[str, tuple[float, float, float, float, float, float]] = {
    "below": (0.0, 40.0, 40.0, 178.0, 95.0, 95.0),
    "S5": (52.0, 75.0, 62.0, 178.0, 104.0, 98.0),
    "S3": (70.0, 92.0, 45.0, 172.0, 108.0, 96.0),
    "S1": (108.0, 98.0, 20.0, 158.0, 108.0, 84.0),
    "last": (114.0, 92.0, 18.0, 146.0, 104.0, 80.0),
    "L3": (112.0, 94.0, 26.0, 130.0, 105.0, 79.0),
    "L1": (117.0, 104.0, 34.0, 132.0, 113.0, 76.0),
    "rib12": (121.0, 107.0, 38.0, 136.0, 117.0, 73.0),
    "T10": (124.0, 107.0, 43.0, 144.0, 120.0, 71.0),
    "T7": (117.0, 96.0, 44.0, 148.0, 114.0, 73.0),
    "T4": (94.0, 70.0, 38.0, 150.0, 94.0, 76.0),
    "T2": (64.0, 44.0, 30.0, 168.0, 68.0, 78.0),
    "T1": (44.0, 26.0, 20.0, 135.0, 52.0, 74.0),
    "C6": (0.0, 0.0, 0.0, 62.0, 44.0, 62.0),
    "C3": (0.0, 0.0, 0.0, 58.0, 52.0, 60.0),
    "above": (0.0, 0.0, 0.0, 60.0, 60.0, 60.0),
}
_BELLY = {"S1": 0.5, "last": 0.9, "L3": 1.0, "L1": 0.8, "rib12": 0.5, "T10": 0.2, "S3": 0.2}
_FATNESS = {
    **dict.fromkeys(("T4", "T7"), 0.6),
    **dict.fromkeys(("T2", "T1", "C6", "C3", "above"), 0.35),
}


@dataclass(frozen=True)
class Habitus:
    """A person's build."""

    size: float  # scale of all lengths
    belly: float  # extra girth of the abdominal cavity, a share (negative in the lean)
    fat: float  # thickness in mm of the subcutaneous fat at the flanks
    flatness: float  # depth of the trunk relative to the usual one
    wall: float  # thickness of the muscular wall relative to the usual one


@dataclass(frozen=True, eq=False)
class Trunk:
    """The trunk's profile, sampled along z."""

    z: Vector  # (n,) heights in mm, ascending, even
    x: Vector  # (n,) of the midline
    y: Vector  # (n,) of the centres of the bodies, smoothed over the pelvis
    # (n, 6) half width, front and back of the cavity, then of the wall; mm from (x, y)
    rows: Vector
    fat: Vector  # (n,) thickness of the subcutaneous fat at the flanks, mm
    power: float  # exponent of the sections
    habitus: Habitus  # the person's build

    def at(self, z: Any) -> tuple[Any, ...]:
        """Return x, y, half width, front and back of the cavity at a height, or heights, in mm."""
        columns = (self.x, self.y, *self.rows.T[:3])
        return tuple(np.interp(z, self.z, column) for column in columns)

    def section(self, z: Vector, angle: Vector, side: int, grow: float) -> tuple[Vector, Vector]:
        """Return x and y in mm of points on the cavity's outline at heights in mm, grown by mm.

        The angle is 0 at the back, half pi at the flank, pi in front; ``side`` is 1 for the
        patient's right, -1 for the left.
        """
        x, y, half, front, back = self.at(z)
        depth, centre = (front + back) / 2 + grow, y + (front - back) / 2
        sin, cos = np.sin(angle), np.cos(angle)
        power = 2 / self.power
        across = np.abs(sin) ** power * (half + grow)
        return x + side * across, centre - np.sign(cos) * np.abs(cos) ** power * depth

    def column(self, first: int, grow: float | Vector, fat: bool = False) -> Column:
        """Return the cavity (``first`` 0) or the wall (3), grown by mm, with its fat if wanted."""
        half, front, back = self.rows.T[first : first + 3]
        grow = np.asarray(grow) + np.where(half > 0, 0.0, -1e3)
        extra = self.fat if fat else np.zeros_like(self.fat)
        front, back = front + grow + extra, back + grow + extra * 1.1
        return Column(
            self.z,
            self.x,
            self.y + (front - back) / 2,
            half + grow + extra,
            np.maximum((front + back) / 2, 0.0),
            self.power,
        )

    def between(self, column: Column, low: float, high: float) -> Column:
        """Return the part of a column between two heights in mm."""
        keep = (self.z >= low) & (self.z <= high)
        z, x, y = column.z[keep], column.x[keep], column.y[keep]
        return Column(z, x, y, column.half_x[keep], column.half_y[keep], column.power)


def make_trunk(
    spine: Sequence[Vertebra], sacrum: Sequence[Vertebra], habitus: Habitus, power: float
) -> Trunk:
    """Return the trunk round a spine (cranial to caudal) and its sacrum."""
    places = {v.name: v.frame.origin for v in (*spine, *sacrum)}
    thoracic = [v.name for v in spine if v.name.startswith("T")]
    places["last"] = places[spine[-1].name]
    places["rib12"] = places[thoracic[-1]]
    places["below"] = places["S5"] - (0.0, 0.0, 130.0)
    places["above"] = places["C3"] + (0.0, 0.0, 60.0)
    pelvis = places["S1"][1]
    rows, knots = [], []
    for name, row in _PROFILE.items():
        x, y, z = places[name]
        if name in ("below", "S5", "S3"):
            x, y = places["S1"][0], pelvis
        values = np.array(row) * habitus.size
        values[[1, 2, 4, 5]] *= [habitus.flatness, 1.0, habitus.flatness, 1.0]
        inner = values[:2].copy()
        values[0] *= 1 + habitus.belly * _BELLY.get(name, 0.0) * 0.6
        values[1] *= 1 + habitus.belly * _BELLY.get(name, 0.0)
        thick = (row[3] - row[0], row[4] - row[1]) * np.array(habitus.size * habitus.wall)
        if name in ("L3", "L1", "rib12", "T10"):
            values[3:5] = values[:2] + thick
        else:
            values[3:5] += values[:2] - inner
        rows.append(values)
        knots.append((z, x, y, habitus.fat * _FATNESS.get(name, 1.0)))
    order = np.argsort([knot[0] for knot in knots])
    heights = np.array([knots[i][0] for i in order])
    z = np.arange(heights[0], heights[-1], 4.0)

    def smooth(values: Sequence[float] | Vector) -> Vector:
        return np.asarray(PchipInterpolator(heights, np.asarray(values)[order], axis=0)(z))

    x, y, fat = (smooth([knot[i] for knot in knots]) for i in (1, 2, 3))
    return Trunk(z, x, y, smooth(np.array(rows)), fat, power, habitus)
