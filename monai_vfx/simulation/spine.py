"""Geometry of a lumbar spine: the curve, a size per level, bodies, discs, arches and sacrum.

Coordinates are LPS mm with the origin in the centre of L3. A vertebra has a frame of its own:
u to the left, v to the back, w to the head, tilted in the sagittal plane.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from monai_vfx.core.anatomy import VERTEBRAE
from monai_vfx.core.vertebra_sizes import SACRUM_TILT, SIZES
from monai_vfx.simulation.canvas import Field, Knots, superellipse

Place = tuple[float, float, float]  # LPS position in mm


@dataclass(frozen=True)
class Vertebra:
    """One vertebra's place and size, mm; see :class:`~monai_vfx.core.vertebra_sizes.LevelSize`."""

    name: str  # level
    centre: Place  # of the body, LPS
    tilt: float  # in radians
    height: float
    wedge: float
    half_depth: float
    half_width: float
    disc: float
    process: float
    depression: float  # depth of the endplates' concavity in mm, each
    flare: float  # how much wider the rims are than the waist, a share
    span: float  # reach of the arch relative to the usual one

    @property
    def label(self) -> int:
        """The body's label value."""
        return VERTEBRAE[self.name]

    def world(self, u: float, v: float, w: float) -> Place:
        """Return the LPS position of a point in the vertebra's own frame."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        x, y, z = self.centre
        return x + u, float(y + v * cos + w * sin), float(z - v * sin + w * cos)

    def local(self, positions: tuple[Field, Field, Field]) -> tuple[Field, Field, Field]:
        """Return u, v and w of LPS positions; u keeps its one axis, v and w span (z, y)."""
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        x, y, z = (
            axis - np.float32(origin) for axis, origin in zip(positions, self.centre, strict=True)
        )
        return x, y * cos - z * sin, y * sin + z * cos


@dataclass(frozen=True)
class Spine:
    """T9 to L5, cranial to caudal, and the sacrum as three tapering segments S1-S3."""

    vertebrae: tuple[Vertebra, ...]
    sacrum: tuple[Vertebra, ...]

    @property
    def column(self) -> tuple[Vertebra, ...]:
        """All of them, cranial to caudal."""
        return self.vertebrae + self.sacrum

    def __getitem__(self, name: str) -> Vertebra:
        """Return a level by its name."""
        return next(v for v in self.column if v.name == name)

    def centre_line(self) -> tuple[Knots, Knots, Knots]:
        """Return x, y and z (each ascending in z, S3 to T9) of the body centres, mm."""
        x, y, z = np.array([v.centre for v in self.column[::-1]], np.float32).T.astype(float)
        return x, y, z


def make_spine(rng: np.random.Generator, height_cm: float, male: bool, age: float) -> Spine:
    """Draw a spine for a person's build, with variation in size, lordosis, scoliosis and discs.

    Bodies of men are broader; discs lose height and rims grow with age (years).
    """
    size = (height_cm / 157.0) ** 0.8 * rng.normal(1.0, 0.025)
    breadth = size * (1.06 if male else 1.0) * rng.normal(1.0, 0.03)
    lordosis = float(np.clip(rng.normal(1.0, 0.22), 0.45, 1.5))
    depression = float(rng.uniform(0.7, 1.6))
    flare = 0.18 + 0.0015 * (age - 50) * rng.uniform(0.3, 1.7)
    degeneration = np.clip(1.0 - 0.006 * (age - 50) * rng.uniform(0.2, 1.6, len(SIZES)), 0.5, 1.0)
    pieces = []
    for (name, expected), disc in zip(SIZES.items(), degeneration, strict=True):
        pieces.append(
            Vertebra(
                name=name,
                centre=(0.0, 0.0, 0.0),
                tilt=float(np.deg2rad(expected.tilt * lordosis + rng.normal(0, 1.0))),
                height=float(expected.height * size * rng.normal(1.0, 0.015)),
                wedge=float(expected.wedge + rng.normal(0, 0.5)),
                half_depth=float(expected.depth / 2 * breadth),
                half_width=float(expected.width / 2 * breadth),
                disc=float(expected.disc * size * disc),
                process=float(expected.process * breadth),
                depression=depression,
                flare=float(flare),
                span=float(breadth),
            )
        )
    placed = _stack(pieces, scoliosis=float(rng.normal(0, 3.0)))
    return Spine(placed, _make_sacrum(placed[-1], float(np.deg2rad(SACRUM_TILT * lordosis))))


def body_distance(body: Vertebra, positions: tuple[Field, Field, Field]) -> tuple[Field, Field]:
    """Return the signed distances in mm to a body's side wall and to its endplates.

    The larger of the two is the distance to the body: a superelliptic cylinder with a waist, a flat
    to hollow back wall and concave, wedged endplates.
    """
    u, v, w = body.local(positions)
    half = np.float32(body.height / 2)
    rim = 1 + np.float32(body.flare) * np.minimum((w / half) ** 2, 1.4)
    across, along = u / np.float32(body.half_width), v / np.float32(body.half_depth)
    rho = superellipse(across, along, 2.5) / rim
    side = (rho - 1) * np.float32(body.half_depth)
    hollow = np.float32(body.half_depth) * (
        np.float32(0.86) + np.float32(0.14) * np.minimum(across * across / np.float32(0.3), 1.0)
    )
    side = np.maximum(side, v - hollow * rim)
    dish = np.float32(body.depression) * np.maximum(1 - rho * rho, 0)
    slope = np.float32(body.wedge / (4 * body.half_depth))
    end = np.abs(w) - (half - slope * v - dish)
    return side, end


def disc_between(upper: Vertebra, lower: Vertebra) -> Vertebra:
    """Return the disc between two levels as a body without waist, dish or wedge."""
    top = np.array(upper.world(0, 0, -upper.height / 2))
    bottom = np.array(lower.world(0, 0, lower.height / 2))
    x, y, z = ((top + bottom) / 2).tolist()
    return replace(
        upper,
        centre=(x, y, z),
        tilt=(upper.tilt + lower.tilt) / 2,
        height=upper.disc + 7.0,
        half_depth=(upper.half_depth + lower.half_depth) / 2 * 1.06,
        half_width=(upper.half_width + lower.half_width) / 2 * 1.06,
        wedge=0.0,
        depression=0.0,
        flare=0.0,
    )


@dataclass(frozen=True)
class Rod:
    """A piece of a posterior arch: a rod with round ends, LPS mm."""

    start: Place
    end: Place
    radius: float


def arch_rods(body: Vertebra) -> list[Rod]:
    """Return the rods whose union is a vertebra's arch: pedicles, facets, laminae, processes."""
    thoracic = body.name.startswith("T")
    back = body.half_depth * 0.9
    scale = body.span
    canal = 16.0 * scale
    lateral = body.half_width * (0.60 if thoracic else 0.66)
    rods = []

    def add(radius: float, start: Place, end: Place) -> None:
        for side in (-1, 1):
            first, last = (body.world(side * u, v, w) for u, v, w in (start, end))
            rods.append(Rod(first, last, radius * scale))

    pillar = back + canal * 0.75
    for w in (2.0, 7.0):  # a pedicle is taller than wide: two rods, one above the other
        add(3.6, (lateral, back - 4, w), (lateral, pillar, w - 1))
    add(4.6, (lateral + 1.5, pillar, 15.0), (lateral + 0.5, pillar + 2, 3.0))
    add(4.6, (lateral, pillar + 3, 2.0), (lateral - 3.5, pillar + 7, -17.0))
    for w in (7.0, 0.0, -8.0):
        add(3.0, (lateral - 1, pillar + 3, w), (2.0, back + canal + 6, w - 5))
    add(3.2, (lateral, pillar - 1, 3.0), (body.process, pillar + (9 if thoracic else 6), 4.0))
    tip = back + canal + (27.0 if thoracic else 29.0) * scale
    drop = -17.0 if thoracic else -4.0
    for w in (0.0, -8.0, -15.0):
        tall = 0.8 if thoracic else 1.0
        add(2.6, (0.6, back + canal + 6, w), (0.6, tip, (w + drop) * tall))
    return rods


def sacral_rods(sacrum: tuple[Vertebra, ...]) -> list[Rod]:
    """Return the rods of the sacrum's alae and median crest."""
    rods = []
    reach = (34.0, 28.0, 20.0)
    for segment, far in zip(sacrum, reach, strict=True):
        scale = segment.span
        for side in (-1, 1):
            for w in (-5.0, 5.0):
                start = segment.world(side * segment.half_width * 0.7, 2, w)
                end = segment.world(side * (segment.half_width * 0.7 + far * scale * 0.8), 9, w - 3)
                rods.append(Rod(start, end, 8.0 * scale))
            arch = segment.world(side * 16 * scale, segment.half_depth + 10, 0)
            crest = segment.world(0, segment.half_depth + 20, -4)
            rods.append(Rod(arch, crest, 3.5 * scale))
            rods.append(Rod(segment.world(side * 20 * scale, 6, 0), arch, 4.5 * scale))
    return rods


def _stack(pieces: list[Vertebra], scoliosis: float) -> tuple[Vertebra, ...]:
    """Place the vertebrae one above the other so that L3 lies in the origin."""
    position = np.zeros(2)
    centres = [position]
    for upper, lower in itertools.pairwise(pieces):
        middle = (upper.tilt + lower.tilt) / 2
        position = (
            position
            - upper.height / 2 * _axis(upper.tilt)
            - upper.disc * _axis(middle)
            - lower.height / 2 * _axis(lower.tilt)
        )
        centres.append(position)
    origin = centres[[p.name for p in pieces].index("L3")]
    placed = []
    for piece, centre in zip(pieces, centres, strict=True):
        y, z = (centre - origin).tolist()
        x = float(scoliosis * np.sin(z / 60.0))
        placed.append(replace(piece, centre=(x, y, z)))
    return tuple(placed)


def _axis(tilt: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return (y, z) of the direction from a body's lower to its upper end."""
    return np.array([np.sin(tilt), np.cos(tilt)])


def _make_sacrum(last: Vertebra, tilt: float) -> tuple[Vertebra, ...]:
    """Return S1-S3 below L5, each smaller and turned further back."""
    segments: list[Vertebra] = []
    above = last
    for number, shrink in enumerate((1.0, 0.80, 0.62)):
        angle = tilt - np.deg2rad(4.0 * number)
        height = last.height * 0.98 * (1 - 0.1 * number)
        gap = last.disc if number == 0 else 1.5
        middle = (above.tilt + angle) / 2
        x, y, z = above.centre
        step = above.height / 2 * _axis(above.tilt) + gap * _axis(middle)
        step = step + height / 2 * _axis(angle)
        above = Vertebra(
            name=f"S{number + 1}",
            centre=(x, float(y - step[0]), float(z - step[1])),
            tilt=float(angle),
            height=height,
            wedge=2.0 if number == 0 else 1.0,
            half_depth=last.half_depth * (0.92, 0.68, 0.52)[number],
            half_width=last.half_width * shrink,
            disc=gap,
            process=0.0,
            depression=0.4,
            flare=0.02,
            span=last.span,
        )
        segments.append(above)
    return tuple(segments)
