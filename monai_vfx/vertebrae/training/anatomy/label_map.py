"""Painting solids of labelled tissues on a grid: the shapes and the painter of label maps.

Positions are RAS mm: x grows to the patient's right, y to the front, z to the head; arrays are
(x, y, z). A shape is a signed distance in mm, negative inside; a solid is a union of shapes, minus
others, whose layers carry tissues (a cortex and what lies inside it). Each solid touches only its
own box of the grid, so that the cost of a map follows what is in its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from monai_vfx.vertebrae.training.anatomy.tissues import Tissue

Field = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Grid = tuple[Field, Field, Field]
Box = tuple[Vector, Vector]  # Lowest and highest corner, RAS mm
LabelArray = npt.NDArray[np.uint8]
Corner = Sequence[float] | Vector


def mm(x: float, y: float, z: float) -> Vector:
    """Return a position or a shift (3,) in RAS mm."""
    return np.array([x, y, z], dtype=float)


class Shape(Protocol):
    """Something with a box and a signed distance."""

    def box(self) -> Box:
        """Return the corners of a box (mm) that holds the shape."""

    def distance(self, grid: Grid) -> Field:
        """Return signed distances in mm at x (X, 1, 1), y (1, Y, 1) and z (1, 1, Z)."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A place and an orientation."""

    origin: Vector  # (3,) RAS mm
    # (3, 3), columns are the frame's unit vectors u (right), v (front) and w (up) in RAS
    axes: Vector = field(default_factory=lambda: np.eye(3))

    def world(self, u: float, v: float, w: float) -> Vector:
        """Return the RAS position (3,) in mm of a point in the frame."""
        return np.asarray(self.origin + self.axes @ (u, v, w))

    def local(self, grid: Grid) -> Grid:
        """Return u, v and w (X, Y, Z) in mm of the points of a grid."""
        x, y, z = (axis - np.float32(start) for axis, start in zip(grid, self.origin, strict=True))
        m = self.axes.astype(np.float32)
        u, v, w = (x * m[0, i] + y * m[1, i] + z * m[2, i] for i in range(3))
        return u, v, w

    def moved(self, u: float, v: float, w: float) -> Frame:
        """Return the frame with its origin at a point of its own."""
        return Frame(self.world(u, v, w), self.axes)


@dataclass(frozen=True, eq=False)
class Blob:
    """A superellipsoid, bumpy if wanted."""

    frame: Frame  # its centre and axes
    half: tuple[float, float, float]  # (3,) semi-axes in mm along the frame's u, v and w
    power: float = 2.0  # exponent; 2 is an ellipsoid, more is boxier
    bumps: float = 0.0  # height of waves on the surface as a share of the radius
    phase: float = 0.0  # of the waves; any number

    def box(self) -> Box:
        """Return the corners of the blob's box, mm."""
        half = np.asarray(self.half) * (1 + 3 * self.bumps)
        reach = np.abs(self.frame.axes) @ half
        if self.power == 2.0:
            reach = np.sqrt((self.frame.axes**2) @ half**2)
        return self.frame.origin - reach, self.frame.origin + reach

    def distance(self, grid: Grid) -> Field:
        """Return signed distances in mm (exact on the surface, roughly so near it)."""
        u, v, w = (
            axis / np.float32(half)
            for axis, half in zip(self.frame.local(grid), self.half, strict=True)
        )
        if self.power == 2.0:
            rho = np.sqrt(u * u + v * v + w * w)
        else:
            power = np.float32(self.power)
            rho = (np.abs(u) ** power + np.abs(v) ** power + np.abs(w) ** power) ** (1 / power)
        if self.bumps:
            x, y, z = grid
            pace = np.float32(5.0 / max(self.half))
            for axis, turn in ((x, 1.0), (y, 2.3), (z, 3.1)):
                rho = rho + np.float32(self.bumps) * np.sin(axis * pace + turn * self.phase)
        result: Field = (rho - np.float32(1)) * np.float32(min(self.half))
        return result


@dataclass(frozen=True, eq=False)
class Rod:
    """A rod with round ends, tapered and flattened if wanted."""

    start: Vector  # (3,) RAS mm; `end` likewise
    end: Vector
    radius: float  # at the start, mm
    radius_end: float | None = None  # at the end, mm; the same if None
    # unit vector along which the section is thinner than `radius`, or None
    flat: Vector | None = None
    ratio: float = 1.0  # how many times thinner

    def box(self) -> Box:
        """Return the corners of the rod's box, mm."""
        reach = max(self.radius, self.radius_end or 0.0)
        return np.minimum(self.start, self.end) - reach, np.maximum(self.start, self.end) + reach

    def distance(self, grid: Grid) -> Field:
        """Return signed distances in mm."""
        x, y, z = (axis - np.float32(o) for axis, o in zip(grid, self.start, strict=True))
        along = (self.end - self.start).astype(np.float32)
        length = max(float(along @ along), 1e-6)
        share = np.clip((x * along[0] + y * along[1] + z * along[2]) / np.float32(length), 0, 1)
        dx, dy, dz = x - share * along[0], y - share * along[1], z - share * along[2]
        square = dx * dx + dy * dy + dz * dz
        if self.flat is not None and self.ratio != 1.0:
            n = self.flat.astype(np.float32)
            across = dx * n[0] + dy * n[1] + dz * n[2]
            square += np.float32(self.ratio**2 - 1) * across * across
        radius = np.float32(self.radius)
        if self.radius_end is not None:
            radius = radius + share * np.float32(self.radius_end - self.radius)
        result: Field = np.sqrt(square) - radius
        return result


@dataclass(frozen=True, eq=False)
class Column:
    """A structure that runs along z with a superelliptic section, as a trunk or a muscle does."""

    z: Vector  # (n,) heights in mm, ascending; outside them there is nothing
    x: Vector  # (n,) centres; `y` likewise
    y: Vector
    half_x: Vector  # (n,) semi-axes in mm; `half_y` likewise; zero or less is nothing
    half_y: Vector
    power: float = 2.0  # exponent of the section

    def box(self) -> Box:
        """Return the corners of the column's box, mm."""
        low = (self.x - self.half_x).min(), (self.y - self.half_y).min(), self.z[0]
        high = (self.x + self.half_x).max(), (self.y + self.half_y).max(), self.z[-1]
        return np.array(low), np.array(high)

    def distance(self, grid: Grid) -> Field:
        """Return distances in mm, measured within the axial plane."""
        x, y, z = grid

        def at(values: Vector) -> Field:
            return np.interp(z, self.z, values).astype(np.float32)

        half_x, half_y = at(self.half_x), at(self.half_y)
        gone = (z < self.z[0]) | (z > self.z[-1]) | (half_x <= 0.3) | (half_y <= 0.3)
        half_x, half_y = np.maximum(half_x, 0.3), np.maximum(half_y, 0.3)
        power = np.float32(self.power)
        # The powers are taken of (X, 1, Z) and (1, Y, Z), before they span the whole box.
        u = (np.abs(x - at(self.x)) / half_x) ** power
        v = (np.abs(y - at(self.y)) / half_y) ** power
        v = np.where(gone, np.float32(1e6), v)
        total = u + v
        rho = np.sqrt(total) if power == 2.0 else total ** (1 / power)
        result: Field = (rho - np.float32(1)) * np.minimum(half_x, half_y)
        return result


@dataclass(frozen=True, eq=False)
class Solid:
    """A union of shapes, made of layers of tissue."""

    parts: tuple[Shape, ...]  # shapes whose union is the solid
    # (tissue, depth) pairs from outside in: the tissue fills what lies deeper than `depth` mm below
    # the surface; a negative depth lies outside of it
    layers: tuple[tuple[Tissue, float], ...]
    minus: tuple[Shape, ...] = ()  # shapes that are cut out
    over: frozenset[Tissue] | None = None  # the tissues it may replace; all if None
    # number for the map of vertebrae, 0 for none, None to leave that map as it is
    level: int | None = 0
    blend: float = 0.0  # radius in mm over which parts melt into each other


@dataclass(frozen=True, eq=False)
class AnatomyMap:
    """A label map of a person."""

    tissues: LabelArray  # (x, y, z) Tissue numbers
    vertebrae: LabelArray  # (x, y, z) level numbers of the vertebral bodies, 0 elsewhere
    affine: Vector  # (4, 4) from voxel indices to RAS mm
    # the body plan it was painted from, None for the label map of a real person
    plan: object | None = None


def solid(
    tissue: Tissue,
    *parts: Shape,
    over: frozenset[Tissue] | None = None,
    level: int | None = 0,
    blend: float = 0.0,
) -> Solid:
    """Return a solid of one tissue."""
    return Solid(parts, ((tissue, 0.0),), over=over, level=level, blend=blend)


def chain(points: Sequence[Vector] | Vector, *radii: float) -> list[Shape]:
    """Return rods from point to point; radii in mm, one a point or from the first to the last."""
    if len(radii) != len(points):
        radii = tuple(np.linspace(radii[0], radii[-1], len(points)).tolist())
    pairs = zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True)
    return [Rod(a, b, r, s) for a, b, r, s in pairs]


class Painter:
    """An axis-aligned grid of tissues that solids are painted on.

    It fills a box given by its lowest and highest corner (3,) in RAS mm; voxel centres, ``spacing``
    (3,) mm apart, lie half a voxel inside the box.
    """

    def __init__(self, low: Corner, high: Corner, spacing: Sequence[float]) -> None:
        size = np.subtract(high, low)
        if len(spacing) != 3 or not (np.all(size > 0) and np.all(np.asarray(spacing) > 0)):
            raise ValueError(f"box {low} to {high} mm at {spacing} mm is not a volume")
        shape = [max(1, round(float(n))) for n in size / spacing]
        self.affine = np.diag([*map(float, spacing), 1.0])
        self.affine[:3, 3] = np.add(low, np.asarray(spacing) / 2)
        self.axes = tuple(
            (self.affine[i, 3] + spacing[i] * np.arange(n)).astype(np.float32)
            for i, n in enumerate(shape)
        )
        self.spacing = float(max(spacing))
        self.tissues: LabelArray = np.zeros(shape, dtype=np.uint8)
        self.vertebrae: LabelArray = np.zeros(shape, dtype=np.uint8)

    def region(self, box: Box, margin: float = 0.0) -> tuple[slice, slice, slice] | None:
        """Return the voxels whose centres lie in a box widened by ``margin`` mm, None if none."""
        found = []
        for axis, low, high in zip(self.axes, *box, strict=True):
            first = int(np.searchsorted(axis, low - margin))
            last = int(np.searchsorted(axis, high + margin, side="right"))
            if first >= last:
                return None
            found.append(slice(first, last))
        return found[0], found[1], found[2]

    def grid(self, region: tuple[slice, slice, slice]) -> Grid:
        """Return x, y and z of a region in mm, shaped to broadcast to (x, y, z)."""
        x, y, z = (axis[part] for axis, part in zip(self.axes, region, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def paint(self, solid: Solid) -> None:
        """Paint a solid's layers, and its level where it has one."""
        margin = max(0.0, *(-depth for _, depth in solid.layers)) + solid.blend
        boxes = [part.box() for part in solid.parts]
        whole = self.region(
            (np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)), margin
        )
        if whole is None:
            return
        start = [part.start for part in whole]
        distance = np.full([part.stop - part.start for part in whole], 1e3, dtype=np.float32)
        for shape, cut in [*((p, False) for p in solid.parts), *((m, True) for m in solid.minus)]:
            region = self.region(shape.box(), margin)
            if region is None:
                continue
            clipped = [
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(region, whole, strict=True)
            ]
            if any(c.start >= c.stop for c in clipped):
                continue
            inner = tuple(
                slice(c.start - s, c.stop - s) for c, s in zip(clipped, start, strict=True)
            )
            here = shape.distance(self.grid((clipped[0], clipped[1], clipped[2])))
            target = distance[inner]
            if cut:
                np.maximum(target, -here, out=target)
            else:
                distance[inner] = _union(target, here, solid.blend)
        tissues = self.tissues[whole]
        allowed: npt.NDArray[np.bool_] | None = None
        if solid.over is not None:
            table = np.zeros(256, dtype=bool)
            table[[int(t) for t in solid.over]] = True
            allowed = table[tissues]
        for number, (tissue, depth) in enumerate(solid.layers):
            inside = distance < -depth
            if allowed is not None:
                inside &= allowed
            tissues[inside] = tissue
            if number == 0 and solid.level is not None:
                self.vertebrae[whole][inside] = solid.level


def _union(a: Field, b: Field, blend: float) -> Field:
    """Return the smaller distance, smoothed where both are alike (Quilez' polynomial minimum)."""
    if blend <= 0:
        return np.minimum(a, b)
    near = np.maximum(np.float32(blend) - np.abs(a - b), 0) / np.float32(blend)
    result: Field = np.minimum(a, b) - near * near * np.float32(blend / 4)
    return result
