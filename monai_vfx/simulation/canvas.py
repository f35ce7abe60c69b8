"""Painting smooth shapes on an axis-aligned grid of Hounsfield units.

Every shape is a signed distance in mm (negative inside), turned into the share of a voxel that it
covers by a linear edge as wide as the voxel. A shell is a shape painted over by its own inside, so
that a thin one keeps its mass on a coarse grid. Each shape touches only its own box of the grid.
Positions are LPS mm: x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monai_vfx.core.arrays import LabelVolume, Region

Field = npt.NDArray[np.float32]
Knots = npt.NDArray[np.float64]
Point = Sequence[float] | Knots  # LPS position in mm


@dataclass(frozen=True)
class Tube:
    """A structure that runs along z: one superellipse a level, linear between the levels."""

    z: Knots  # heights of the knots in mm, ascending; outside them there is nothing
    x: Knots  # centres at the knots in mm; `y` likewise
    y: Knots
    half_x: Knots  # semi-axes at the knots in mm; `half_y` likewise; zero or less is nothing
    half_y: Knots
    power: float = 2.0  # exponent of the superellipse, 2 is an ellipse
    angle: float = 0.0  # rotation in the axial plane in radians, from x towards y

    @classmethod
    def of(cls, *knots: npt.ArrayLike, power: float = 2.0, angle: float = 0.0) -> Tube:
        """Build a tube from z, x, y, half_x and half_y; a number stands for all levels."""
        z, x, y, half_x, half_y = np.broadcast_arrays(*(np.asarray(k, dtype=float) for k in knots))
        return cls(z, x, y, half_x, half_y, power, angle)


class Canvas:
    """A grid that shapes are painted on.

    Args:
        x: voxel centres in mm, ascending and even, patient's left grows; ``y`` to the back, ``z``
            to the head.
        fill: HU of the empty grid.
    """

    def __init__(self, x: Field, y: Field, z: Field, fill: float = -1000.0) -> None:
        self.x, self.y, self.z = x, y, z
        self.hu: Field = np.full((len(z), len(y), len(x)), fill, dtype=np.float32)
        self.labels: LabelVolume = np.zeros(self.hu.shape, dtype=np.uint8)
        self.edge = float(x[1] - x[0]) * 1.2
        self.spacing = tuple(float(axis[1] - axis[0]) for axis in (z, y, x))
        self._places = [axis.tolist() for axis in (z, y, x)]

    def window(self, low: Point, high: Point) -> Region | None:
        """Return the voxels of a box in mm, or None where it misses the grid."""
        found = []
        margin = self.edge
        # Most of the thousand small shapes of a bowel miss a small field: plain lists are quicker.
        for places, start, stop in zip(self._places, low[::-1], high[::-1], strict=True):
            first = bisect_left(places, start - margin)
            last = bisect_left(places, stop + margin)
            if first >= last:
                return None
            found.append(slice(first, last))
        return found[0], found[1], found[2]

    def positions(self, region: Region) -> tuple[Field, Field, Field]:
        """Return the region's x, y and z in mm, shaped to broadcast to (z, y, x)."""
        return (
            self.x[region[2]][None, None, :],
            self.y[region[1]][None, :, None],
            self.z[region[0]][:, None, None],
        )

    def cover(self, distance: Field) -> Field:
        """Return the covered share (0 to 1) of voxels at a signed distance in mm."""
        share: Field = np.clip(np.float32(0.5) - distance / np.float32(self.edge), 0.0, 1.0)
        return share

    def paint(
        self, region: Region, share: Field, value: float | Field, label: int | None = None
    ) -> None:
        """Blend ``value`` (HU) in by the covered share; label voxels covered by half or more."""
        target = self.hu[region]
        target += share * (np.asarray(value, dtype=np.float32) - target)
        if label is not None:
            self.labels[region][np.broadcast_to(share >= 0.5, target.shape)] = label

    def tube(self, shape: Tube) -> tuple[Region, Field] | None:
        """Return a tube's box and its signed distance (z, y, x) in mm there, or None if outside."""
        # A rotated or long superellipse reaches at most as far as the sum of its semi-axes.
        longest = np.maximum(shape.half_x, shape.half_y)
        reach_x, reach_y = (longest,) * 2 if shape.angle else (shape.half_x, shape.half_y)
        region = self.window(
            ((shape.x - reach_x).min(), (shape.y - reach_y).min(), shape.z[0]),
            ((shape.x + reach_x).max(), (shape.y + reach_y).max(), shape.z[-1]),
        )
        if region is None:
            return None
        x, y, z = self.positions(region)

        def at(values: Knots) -> Field:
            return np.interp(z, shape.z, values).astype(np.float32)

        half_x, half_y = at(shape.half_x), at(shape.half_y)
        gone = (z < shape.z[0]) | (z > shape.z[-1]) | (half_x <= 0.3) | (half_y <= 0.3)
        u, v = x - at(shape.x), y - at(shape.y)
        if shape.angle:
            cos, sin = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
            u, v = cos * u + sin * v, cos * v - sin * u
        half_x, half_y = np.maximum(half_x, 0.3), np.maximum(half_y, 0.3)
        rho = superellipse(u / half_x, v / half_y, shape.power)
        distance = (rho - np.float32(1)) * np.minimum(half_x, half_y)
        distance[np.broadcast_to(gone, distance.shape)] = 1e3
        return region, distance

    def paint_tube(self, shape: Tube, value: float, label: int | None = None) -> None:
        """Paint a tube with one attenuation in HU."""
        found = self.tube(shape)
        if found is not None:
            self.paint(found[0], self.cover(found[1]), value, label)

    def paint_capsule(self, start: Point, end: Point, radius: float, value: float) -> None:
        """Paint a rod with round ends; ``radius`` in mm."""
        low, high = capsule_box(start, end, radius)
        region = self.window(low, high)
        if region is not None:
            distance = capsule_distance(self.positions(region), start, end, radius)
            self.paint(region, self.cover(distance), value)


def superellipse(u: Field, v: Field, power: float) -> Field:
    """Return the radius of (u, v) in the unit superellipse's norm (1 on its outline).

    >>> float(superellipse(np.float32(3), np.float32(4), 2.0))
    5.0
    """
    if power == 2.0:
        return np.asarray(np.sqrt(u * u + v * v), dtype=np.float32)
    # The powers are taken before broadcasting, where u and v are often small.
    total = np.abs(u) ** np.float32(power) + np.abs(v) ** np.float32(power)
    return np.asarray(total ** np.float32(1 / power), dtype=np.float32)


def ellipsoid(centre: Point, half: Point, power: float = 2.0, angle: float = 0.0) -> Tube:
    """Return an ellipsoid as a tube of thirteen sections; semi-axes x, y, z in mm."""
    steps = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 13))
    shrink = np.sqrt(np.maximum(0.0, 1 - steps**2))
    knots = (centre[2] + half[2] * steps, centre[0], centre[1], half[0] * shrink, half[1] * shrink)
    return Tube.of(*knots, power=power, angle=angle)


def capsule_box(start: Point, end: Point, radius: float) -> tuple[Point, Point]:
    """Return the corners of the box around a capsule, mm."""
    (x, y, z), (u, v, w) = start, end
    return (
        (min(x, u) - radius, min(y, v) - radius, min(z, w) - radius),
        (max(x, u) + radius, max(y, v) + radius, max(z, w) + radius),
    )


def capsule_distance(
    positions: tuple[Field, Field, Field], start: Point, end: Point, radius: float
) -> Field:
    """Return the signed distance in mm to a rod with round ends.

    >>> axes = [np.array(v, dtype=np.float32) for v in (3.0, 4.0, 5.0)]
    >>> float(capsule_distance(tuple(axes), (0.0, 0.0, 0.0), (0.0, 0.0, 10.0), 2.0))
    3.0
    """
    first = np.asarray(start, dtype=np.float32)
    along = np.asarray(end, dtype=np.float32) - first
    x, y, z = (axis - origin for axis, origin in zip(positions, first, strict=True))
    length = max(float(along @ along), 1e-6)
    share = np.clip((x * along[0] + y * along[1] + z * along[2]) / np.float32(length), 0, 1)
    square = (x - share * along[0]) ** 2 + (y - share * along[1]) ** 2 + (z - share * along[2]) ** 2
    result: Field = np.sqrt(square) - np.float32(radius)
    return result
