"""Geometry of the soft tissue around a spine: body outline, wall, muscles, vessels, organs, ribs.

Coordinates are those of :mod:`monai_vfx.simulation.spine`: LPS mm, origin in the centre of L3.
Attenuations are those of a portal-venous phase.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from monai_vfx.simulation.canvas import Knots, Point, Tube, ellipsoid
from monai_vfx.simulation.patients import Patient
from monai_vfx.simulation.spine import Rod, Spine, Vertebra

FAT = -102.0
"""Attenuation of fat, HU."""

# Depth of the back muscles' surface behind the body's centre, mm, per level.
_SURFACE = {
    **{"T9": 66.0, "T10": 67.0, "T11": 68.0, "T12": 70.0, "L1": 72.0, "L2": 73.0},
    **{"L3": 74.0, "L4": 73.0, "L5": 68.0, "S1": 56.0, "S2": 44.0, "S3": 34.0},
}
# Semi-axis of one erector spinae from left to right, mm, per level.
_ERECTOR = {
    **{"T9": 24.0, "T10": 26.0, "T11": 28.0, "T12": 30.0, "L1": 31.5, "L2": 32.0},
    **{"L3": 31.0, "L4": 28.5, "L5": 25.0, "S1": 20.0, "S2": 14.0, "S3": 7.0},
}
# Radius of one psoas, mm, per level.
_PSOAS = {"T12": 2.0, "L1": 6.0, "L2": 10.5, "L3": 14.0, "L4": 17.0, "L5": 18.0, "S1": 17.0}
# Ribs: vertebra → (angle in degrees where the rib ends, 90 is straight back and 0 the flank; drop).
_RIBS = {"T9": (-70.0, 120.0), "T10": (-35.0, 105.0), "T11": (15.0, 75.0), "T12": (48.0, 45.0)}


@dataclass(frozen=True)
class Torso:
    """Sizes of the trunk in mm; y and z are LPS.

    Args:
        z: knots, ascending, one a level from S3 to T9.
        spine_x: centre line of the bodies at the knots; ``spine_y`` likewise.
        skin_back: y of the back's skin at the knots; ``muscle_back`` of the muscles' surface.
        skin_front: y of the belly's skin.
        half_width: of the trunk, left to right.
        fat_side: thickness of the subcutaneous fat at the flank; ``fat_front`` at the belly.
        wall: thickness of the abdominal wall's muscle at the flank.
        build: linear size of the muscles relative to a woman of 157 cm.
    """

    z: Knots
    spine_x: Knots
    spine_y: Knots
    skin_back: Knots
    muscle_back: Knots
    skin_front: float
    half_width: float
    fat_side: float
    fat_front: float
    wall: float
    build: float

    def spine_at(self, z: float) -> tuple[float, float]:
        """Return x and y of the spine's centre line at a height, mm."""
        return float(np.interp(z, self.z, self.spine_x)), float(np.interp(z, self.z, self.spine_y))

    def outline(self, inset: float = 0.0) -> Tube:
        """Return the skin's surface, moved inwards by ``inset`` mm."""
        return self._ring(
            self.half_width - inset,
            self.skin_front + inset,
            [y + 16.0 - inset for y in self.skin_back],
        )

    def muscle_ring(self, inset: float = 0.0) -> Tube:
        """Return the outer surface of the muscular wall, moved inwards by ``inset`` mm."""
        return self._ring(
            self.half_width - self.fat_side - inset,
            self.skin_front + self.fat_front + 0.7 * inset,
            [y + 3.0 - inset for y in self.muscle_back],
        )

    def wall_inside(self) -> Tube:
        """Return the inner surface of the wall; behind, only the fascia lies outside it."""
        return self._ring(
            self.half_width - self.fat_side - self.wall,
            self.skin_front + self.fat_front + 0.7 * self.wall,
            [y + 0.5 for y in self.muscle_back],
        )

    @cached_property
    def cavity(self) -> Tube:
        """The abdominal cavity with the retroperitoneum."""
        reach = np.interp(self.z, [-150.0, -60.0, 40.0, 100.0], [20.0, 26.0, 30.0, 44.0])
        return self._ring(
            self.half_width - self.fat_side - self.wall,
            self.skin_front + self.fat_front + 0.7 * self.wall,
            [y + r for y, r in zip(self.spine_y, reach, strict=True)],
        )

    def place(self, across: float, depth: float, z: float) -> Point:
        """Return a point of the cavity: across is -1 (right) to 1 (left), depth 0 (front) to 1."""
        cavity = self.cavity
        centre = float(np.interp(z, cavity.z, cavity.y))
        half = float(np.interp(z, cavity.z, cavity.half_y))
        return across * max(cavity.half_x), centre + (2 * depth - 1) * half, z

    def _ring(self, half_width: float, front: float, back: list[float]) -> Tube:
        waist = np.interp(self.z, [-160.0, -90.0, 0.0, 110.0, 200.0], [1.05, 1.0, 0.96, 1.0, 0.97])
        ends = (self.z[0] - 60.0, *self.z, self.z[-1] + 60.0)
        y = [(b + front) / 2 for b in back]
        half = [(b - front) / 2 for b in back]
        wide = [half_width * w for w in waist]
        return Tube(
            z=ends,
            x=tuple(0.6 * x for x in _extended(list(self.spine_x))),
            y=_extended(y),
            half_x=_extended(wide),
            half_y=_extended(half),
            power=2.35,
        )


def make_torso(rng: np.random.Generator, patient: Patient, spine: Spine) -> Torso:
    """Draw the trunk of a patient's build; fat follows the BMI, muscle size height and sex."""
    centre_x, centre_y, centre_z = spine.centre_line()
    levels = [v.name for v in (spine.vertebrae + spine.sacrum)[::-1]]
    male = patient.sex == "M"
    weight = patient.bmi / 23.6
    build = (patient.height_cm / 157.0) ** 0.7 * (1.07 if male else 1.0) * weight**0.15
    build *= float(rng.normal(1.0, 0.02))
    fat_back = float(np.clip(14.0 * weight**1.4 * rng.normal(1.0, 0.15), 4.0, 45.0))
    muscle = centre_y + np.array([_SURFACE[name] for name in levels]) * (0.45 + 0.55 * build)
    skin = 0.5 * (muscle + fat_back) + 0.5 * (muscle.max() + fat_back)
    skin = np.maximum(skin, muscle + 4.0)
    depth = 218.0 * weight**0.75 * build * rng.normal(1.0, 0.03)
    return Torso(
        z=tuple(centre_z.tolist()),
        spine_x=tuple(centre_x.tolist()),
        spine_y=tuple(centre_y.tolist()),
        skin_back=tuple(skin.tolist()),
        muscle_back=tuple(muscle.tolist()),
        skin_front=float(np.interp(0.0, centre_z, skin) - depth),
        half_width=float(155.0 * weight**0.45 * build * rng.normal(1.0, 0.03)),
        fat_side=float(np.clip((10.0 if male else 14.0) * weight**1.6, 4.0, 45.0)),
        fat_front=float(np.clip((13.0 if male else 19.0) * weight**1.8, 4.0, 60.0)),
        wall=13.0 * build,
        build=build,
    )


def erector_spinae(torso: Torso, spine: Spine, side: int, scale: float) -> Tube:
    """Return one erector spinae with the multifidus; ``side`` is 1 on the patient's left.

    Args:
        torso: trunk.
        spine: spine.
        side: 1 left, -1 right.
        scale: cross-section relative to the build's expectation.
    """
    bodies = [v for v in (spine.vertebrae + spine.sacrum)[::-1] if v.name in _ERECTOR]
    linear = np.sqrt(scale)
    x, y, half_x, half_y = [], [], [], []
    for body, back in zip(bodies, torso.muscle_back, strict=True):
        front = body.centre[1] + body.half_depth + 15.0
        wide = 1.1 * _ERECTOR[body.name] * torso.build * linear
        tall = max((back - front) / 2, 4.0)
        x.append(body.centre[0] + side * (3.0 + wide))
        # A small muscle withdraws from the fascia and leaves fat behind it.
        y.append(front + tall * linear)
        half_x.append(wide)
        half_y.append(tall * linear)
    # Thick beside the spine, thin at its outer edge, which lies further in front.
    return Tube(
        torso.z, tuple(x), tuple(y), tuple(half_x), tuple(half_y), power=2.3, angle=-0.13 * side
    )


def psoas(torso: Torso, spine: Spine, side: int, scale: float, male: bool) -> Tube:
    """Return one psoas; arguments as for :func:`erector_spinae`."""
    bodies = [v for v in (spine.vertebrae + spine.sacrum)[::-1] if v.name in _PSOAS]
    size = np.sqrt(scale) * torso.build * (1.14 if male else 1.0)
    x, y, radius = [], [], []
    for body in bodies:
        r = _PSOAS[body.name] * size
        away = body.half_width * (1.0 if body.name != "S1" else 1.25)
        x.append(body.centre[0] + side * (away + 0.82 * r))
        y.append(body.centre[1] + (4.0 if body.centre[2] > -10 else -3.0 + 0.25 * body.centre[2]))
        radius.append(r)
    z = [b.centre[2] for b in bodies]
    z[0], radius[0] = z[0] - 40.0, radius[0] * 0.9
    return Tube(
        tuple(z),
        tuple(x),
        tuple(y),
        tuple(0.92 * r for r in radius),
        tuple(1.08 * r for r in radius),
        power=2.2,
    )


def quadratus(torso: Torso, spine: Spine, side: int, scale: float) -> Tube:
    """Return one quadratus lumborum, from the last rib to the iliac crest."""
    names = ("L5", "L4", "L3", "L2", "L1", "T12")
    bodies = [spine[name] for name in names]
    size = np.sqrt(scale) * torso.build
    wide = np.array([10.0, 24.0, 22.0, 19.0, 15.0, 6.0]) * size
    x = np.array([78.0, 68.0, 62.0, 56.0, 48.0, 40.0]) * torso.build * side
    return Tube(
        z=tuple(b.centre[2] for b in bodies),
        x=tuple(b.centre[0] + offset for b, offset in zip(bodies, x.tolist(), strict=True)),
        y=tuple(b.centre[1] + b.half_depth + 9.0 for b in bodies),
        half_x=tuple(wide.tolist()),
        half_y=tuple((6.5 * size * np.array([0.7, 1, 1, 1, 0.9, 0.6])).tolist()),
        power=2.2,
        angle=-0.35 * side,
    )


def vessel(torso: Torso, spine: Spine, x: float, radius: tuple[float, float], top: str) -> Tube:
    """Return a great vessel in front of the bodies from ``top`` to L4; x in mm, left positive."""
    names = [v.name for v in spine.vertebrae]
    bodies = spine.vertebrae[names.index(top) : names.index("L4") + 1][::-1]
    scale = torso.build
    return Tube(
        z=tuple(b.centre[2] for b in bodies),
        x=tuple(b.centre[0] + x * scale for b in bodies),
        y=tuple(b.centre[1] - b.half_depth * 1.12 - radius[1] * scale for b in bodies),
        half_x=(radius[0] * scale,) * len(bodies),
        half_y=(radius[1] * scale,) * len(bodies),
    )


def kidney(torso: Torso, spine: Spine, side: int, share: float = 1.0) -> Tube:
    """Return one kidney, or the part of it scaled by ``share`` about its centre."""
    level = spine["L1"] if side > 0 else spine["L2"]
    shift = -6.0 if side > 0 else 12.0
    size = torso.build
    centre = (
        level.centre[0] + side * (level.half_width + 38.0 * size),
        level.centre[1] - 5.0,
        level.centre[2] + shift,
    )
    half = (23.0 * size * share, 30.0 * size * share, 52.0 * size * share)
    return ellipsoid(centre, half, power=2.1, angle=0.6 * side)


def iliac_wing(torso: Torso, spine: Spine, side: int, inset: float) -> Tube:
    """Return one iliac wing as a slanted plate, its surface moved inwards by ``inset`` mm.

    A negative ``inset`` thickens the plate but does not lengthen it.
    """
    levels = [spine[name] for name in ("S3", "S2", "S1", "L5")]
    base = spine["L5"].centre[1]
    size = torso.build
    # The plate ends under the flank's fat, also in a slim patient.
    reach = min(size, (torso.half_width - torso.fat_side - 4.0) / 138.0)
    half = np.array([48.0, 52.0, 50.0, 34.0, 6.0]) * reach - max(inset, 0.0)
    thick = np.array([9.0, 8.5, 7.5, 6.0, 3.0]) * size - inset
    x = np.array([86.0, 88.0, 92.0, 100.0, 110.0]) * reach * side
    y = base + np.array([36.0, 34.0, 32.0, 26.0, 16.0])
    z = [*(v.centre[2] for v in levels), spine["L5"].centre[2] + 24.0]
    return Tube(
        z=tuple(z),
        x=tuple(x.tolist()),
        y=tuple(y.tolist()),
        half_x=tuple(half.tolist()),
        half_y=tuple(thick.tolist()),
        power=2.6,
        angle=-0.62 * side,
    )


def ribs(torso: Torso, spine: Spine) -> list[Rod]:
    """Return the ribs of T9-T12 as rods, two side by side since a rib is taller than thick."""
    rods = []
    middle = torso.muscle_ring(inset=torso.wall / 2)
    for name, (end, drop) in _RIBS.items():
        for side in (-1, 1):
            path = _rib_path(spine[name], middle, side, end, drop)
            for lift in (-2.5, 2.5):
                lifted = [(x, y, z + lift) for x, y, z in path]
                rods += [Rod(a, b, 3.3) for a, b in itertools.pairwise(lifted)]
    return rods


def _rib_path(body: Vertebra, ring: Tube, side: int, end: float, drop: float) -> list[Point]:
    """Return points along a rib from its head, falling evenly along its way round the chest."""
    path = [
        body.world(side * (body.half_width + 3), body.half_depth * 0.7, 7.0),
        body.world(side * (body.half_width + 16), body.half_depth + 12, 3.0),
    ]
    angles = np.deg2rad(np.linspace(74.0, end, max(3, int((74.0 - end) / 8.0))))
    for angle in angles:
        z = body.centre[2] - 16.0 - drop * float(np.deg2rad(74.0) - angle) / float(np.pi * 0.73)
        half_x, half_y, x, y = (
            float(np.interp(z, ring.z, knots))
            for knots in (ring.half_x, ring.half_y, ring.x, ring.y)
        )
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        bend = 2 / ring.power
        path.append(
            (
                x + side * half_x * cos**bend,
                y + float(np.sign(sin)) * half_y * abs(sin) ** bend,
                z,
            )
        )
    return path


def _extended(values: Sequence[float]) -> Knots:
    """Repeat the end values, so that a tube goes on beyond the spine."""
    return (float(values[0]), *(float(v) for v in values), float(values[-1]))
