"""Geometry of the soft tissue around a spine: body outline, wall, muscles, vessels, organs, ribs.

Coordinates are those of :mod:`monai_vfx.simulation.spine`: LPS mm, origin in the centre of L3.
Attenuations are those of a portal-venous phase.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from monai_vfx.simulation.canvas import Knots, Tube, ellipsoid
from monai_vfx.simulation.patients import Patient
from monai_vfx.simulation.spine import Rod, Spine, Vertebra

FAT = -102.0  # Attenuation of fat, HU

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
    """Sizes of the trunk in mm; y and z are LPS."""

    z: Knots  # (n,) knots, ascending, one a level from S3 to T9; the following four are given there
    spine_x: Knots  # centre line of the bodies; `spine_y` likewise
    spine_y: Knots
    skin_back: Knots  # y of the back's skin; `muscle_back` of the muscles' surface
    muscle_back: Knots
    skin_front: float  # y of the belly's skin
    half_width: float  # of the trunk, left to right
    fat_side: float  # thickness of the subcutaneous fat at the flank; `fat_front` at the belly
    fat_front: float
    wall: float  # thickness of the abdominal wall's muscle at the flank
    build: float  # linear size of the muscles relative to a woman of 157 cm

    def outline(self, inset: float = 0.0) -> Tube:
        """Return the skin's surface, moved inwards by ``inset`` mm."""
        back = self.skin_back + 16.0 - inset
        return self._ring(self.half_width - inset, self.skin_front + inset, back)

    def muscle_ring(self, inset: float = 0.0) -> Tube:
        """Return the outer surface of the muscular wall, moved inwards by ``inset`` mm."""
        return self._ring(
            self.half_width - self.fat_side - inset,
            self.skin_front + self.fat_front + 0.7 * inset,
            self.muscle_back + 3.0 - inset,
        )

    def wall_inside(self) -> Tube:
        """Return the inner surface of the wall; behind, only the fascia lies outside it."""
        return self._inside(self.muscle_back + 0.5)

    @cached_property
    def cavity(self) -> Tube:
        """The abdominal cavity with the retroperitoneum."""
        reach = np.interp(self.z, [-150.0, -60.0, 40.0, 100.0], [20.0, 26.0, 30.0, 44.0])
        return self._inside(self.spine_y + reach)

    def place(self, across: float, depth: float, z: float) -> tuple[float, float, float]:
        """Return a point of the cavity: across is -1 (right) to 1 (left), depth 0 (front) to 1."""
        cavity = self.cavity
        centre = float(np.interp(z, cavity.z, cavity.y))
        half = float(np.interp(z, cavity.z, cavity.half_y))
        return across * float(cavity.half_x.max()), centre + (2 * depth - 1) * half, z

    def _inside(self, back: Knots) -> Tube:
        return self._ring(
            self.half_width - self.fat_side - self.wall,
            self.skin_front + self.fat_front + 0.7 * self.wall,
            back,
        )

    def _ring(self, half_width: float, front: float, back: Knots) -> Tube:
        """Return an outline that continues unchanged for 60 mm beyond both ends of the spine."""
        waist = np.interp(self.z, [-160.0, -90.0, 0.0, 110.0, 200.0], [1.05, 1.0, 0.96, 1.0, 0.97])
        columns = (self.spine_x, (back + front) / 2, half_width * waist, (back - front) / 2)
        x, y, half_x, half_y = (np.pad(values, 1, mode="edge") for values in columns)
        z = np.pad(self.z, 1, mode="edge") + np.r_[-60.0, 0 * self.z, 60.0]
        return Tube.of(z, 0.6 * x, y, half_x, half_y, power=2.35)


def make_torso(rng: np.random.Generator, patient: Patient, spine: Spine) -> Torso:
    """Draw the trunk of a patient's build; fat follows the BMI, muscle size height and sex."""
    x, y, z = spine.centre_line()
    levels = [v.name for v in spine.column[::-1]]
    male = patient.sex == "M"
    weight = patient.bmi / 23.6
    build = (patient.height_cm / 157.0) ** 0.7 * (1.07 if male else 1.0) * weight**0.15
    build *= float(rng.normal(1.0, 0.02))
    fat_back = float(np.clip(14.0 * weight**1.4 * rng.normal(1.0, 0.15), 4.0, 45.0))
    muscle = y + np.array([_SURFACE[name] for name in levels]) * (0.45 + 0.55 * build)
    skin = 0.5 * (muscle + fat_back) + 0.5 * (muscle.max() + fat_back)
    skin = np.maximum(skin, muscle + 4.0)
    depth = 218.0 * weight**0.75 * build * rng.normal(1.0, 0.03)
    return Torso(
        z=z,
        spine_x=x,
        spine_y=y,
        skin_back=skin,
        muscle_back=muscle,
        skin_front=float(np.interp(0.0, z, skin) - depth),
        half_width=float(155.0 * weight**0.45 * build * rng.normal(1.0, 0.03)),
        fat_side=float(np.clip((10.0 if male else 14.0) * weight**1.6, 4.0, 45.0)),
        fat_front=float(np.clip((13.0 if male else 19.0) * weight**1.8, 4.0, 60.0)),
        wall=13.0 * build,
        build=build,
    )


def erector_spinae(torso: Torso, spine: Spine, side: int, scale: float) -> Tube:
    """Return one erector spinae; ``side`` is 1 left, -1 right.

    ``scale`` is its cross-section relative to the build's expectation.
    """
    linear = np.sqrt(scale)
    rows = []
    for body, back in zip(spine.column[::-1], torso.muscle_back, strict=True):
        front = body.centre[1] + body.half_depth + 15.0
        wide = 1.1 * _ERECTOR[body.name] * torso.build * linear
        tall = max((back - front) / 2, 4.0)
        # A small muscle withdraws from the fascia and leaves fat behind it.
        x, y = body.centre[0] + side * (3.0 + wide), front + tall * linear
        rows.append((x, y, wide, tall * linear))
    # Thick beside the spine, thin at its outer edge, which lies further in front.
    return Tube.of(torso.z, *np.transpose(rows), power=2.3, angle=-0.13 * side)


def psoas(torso: Torso, spine: Spine, side: int, scale: float, male: bool) -> Tube:
    """Return one psoas; arguments as for :func:`erector_spinae`."""
    size = np.sqrt(scale) * torso.build * (1.14 if male else 1.0)
    rows = []
    for body in spine.column[::-1]:
        if body.name not in _PSOAS:
            continue
        radius = _PSOAS[body.name] * size
        away = body.half_width * (1.0 if body.name != "S1" else 1.25)
        x, y, z = body.centre
        x += side * (away + 0.82 * radius)
        y += 4.0 if z > -10 else -3.0 + 0.25 * z
        rows.append((z, x, y, radius))
    z, x, y, radius = np.transpose(rows)
    z[0], radius[0] = z[0] - 40.0, radius[0] * 0.9
    return Tube.of(z, x, y, 0.92 * radius, 1.08 * radius, power=2.2)


def quadratus(torso: Torso, spine: Spine, side: int, scale: float) -> Tube:
    """Return one quadratus lumborum, from the last rib to the iliac crest."""
    bodies = [spine[name] for name in ("L5", "L4", "L3", "L2", "L1", "T12")]
    size = np.sqrt(scale) * torso.build
    x, y, z = np.transpose([b.centre for b in bodies])
    x = x + np.array([78.0, 68.0, 62.0, 56.0, 48.0, 40.0]) * torso.build * side
    y = y + np.array([b.half_depth for b in bodies]) + 9.0
    wide = np.array([10.0, 24.0, 22.0, 19.0, 15.0, 6.0]) * size
    thick = 6.5 * size * np.array([0.7, 1, 1, 1, 0.9, 0.6])
    return Tube.of(z, x, y, wide, thick, power=2.2, angle=-0.35 * side)


def vessel(torso: Torso, spine: Spine, x: float, radius: tuple[float, float], top: str) -> Tube:
    """Return a great vessel in front of the bodies from ``top`` to L4; x in mm, left positive."""
    names = [v.name for v in spine.vertebrae]
    bodies = spine.vertebrae[names.index(top) : names.index("L4") + 1][::-1]
    scale = torso.build
    x0, y0, z = np.transpose([b.centre for b in bodies])
    y = y0 - np.array([b.half_depth for b in bodies]) * 1.12 - radius[1] * scale
    return Tube.of(z, x0 + x * scale, y, radius[0] * scale, radius[1] * scale)


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
    base = spine["L5"].centre
    size = torso.build
    # The plate ends under the flank's fat, also in a slim patient.
    reach = min(size, (torso.half_width - torso.fat_side - 4.0) / 138.0)
    half = np.array([48.0, 52.0, 50.0, 34.0, 6.0]) * reach - max(inset, 0.0)
    thick = np.array([9.0, 8.5, 7.5, 6.0, 3.0]) * size - inset
    x = np.array([86.0, 88.0, 92.0, 100.0, 110.0]) * reach * side
    y = base[1] + np.array([36.0, 34.0, 32.0, 26.0, 16.0])
    z = [*(spine[name].centre[2] for name in ("S3", "S2", "S1", "L5")), base[2] + 24.0]
    return Tube.of(z, x, y, half, thick, power=2.6, angle=-0.62 * side)


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


def _rib_path(
    body: Vertebra, ring: Tube, side: int, end: float, drop: float
) -> list[tuple[float, float, float]]:
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
        y += float(np.sign(sin)) * half_y * abs(sin) ** bend
        path.append((x + side * half_x * cos**bend, y, z))
    return path
