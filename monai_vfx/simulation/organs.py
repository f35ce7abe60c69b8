"""Painting of the belly's organs, vessels and bowel, at a portal-venous phase."""

from __future__ import annotations

import itertools

import numpy as np

from monai_vfx.simulation.canvas import Canvas, Field, Point, Tube, ellipsoid
from monai_vfx.simulation.spine import Spine
from monai_vfx.simulation.torso import FAT, Torso, kidney, vessel

LIVER, SPLEEN, BOWEL_WALL, FLUID, GAS, SOFT = 112.0, 122.0, 82.0, 18.0, -900.0, 62.0


def paint_organs(
    canvas: Canvas, torso: Torso, spine: Spine, cavity: Field, aorta_hu: float, seed: int
) -> None:
    """Paint all organs into a trunk whose cavity is already painted with fat.

    ``cavity`` (z, y, x) is the share of each voxel that lies in the cavity, to which organs are
    clipped; ``aorta_hu`` is the aorta's enhancement, ``seed`` that of the individual variation.
    """
    rng = np.random.default_rng(seed)
    painter = _Painter(canvas, cavity)
    _bowel(painter, torso, spine, rng)
    _solid_organs(painter, torso, spine, rng)
    _kidneys(canvas, torso, spine, aorta_hu)
    _vessels(painter, torso, spine, aorta_hu, rng)


class _Painter:
    """Paints tubes into the cavity only."""

    def __init__(self, canvas: Canvas, cavity: Field) -> None:
        self.canvas = canvas
        self.cavity = cavity

    def tube(self, shape: Tube, content: float, gas_above: float | None = None) -> None:
        found = self.canvas.tube(shape)
        if found is not None:
            region, distance = found
            value: float | Field = content
            if gas_above is not None:
                y = self.canvas.positions(region)[1]
                value = np.where(y < gas_above, np.float32(GAS), np.float32(content))
            self.canvas.paint(region, self.canvas.cover(distance) * self.cavity[region], value)

    def hollow(self, shape: Tube, inner: Tube, content: float, gas_above: float | None) -> None:
        """Paint a hollow organ; content in front of the height ``gas_above`` (y, mm) is gas."""
        self.tube(shape, BOWEL_WALL)
        self.tube(inner, content, gas_above)


def _solid_organs(painter: _Painter, torso: Torso, spine: Spine, rng: np.random.Generator) -> None:
    top = spine["T11"].centre[2] + rng.normal(0, 6)
    wide, deep = float(torso.cavity.half_x.max()), float(torso.cavity.half_y[4])
    liver = rng.normal(LIVER, 8)
    for centre, half in (
        (torso.place(-0.56, 0.52, top + 5), (0.47 * wide, 0.95 * deep, 84.0)),
        (torso.place(-0.12, 0.24, top + 8), (0.52 * wide, 0.38 * deep, 46.0)),
    ):
        painter.tube(ellipsoid(centre, half, power=2.7), liver)
    x, y, z = torso.place(-0.45, 0.5, top - 8)
    for turn in rng.uniform(-1, 1, (5, 3)):
        painter.canvas.paint_capsule(
            (x + 12, y, z), (x + 42 * turn[0], y + 30 * turn[1], z + 35 * turn[2]), 3.2, liver + 32
        )
    painter.tube(ellipsoid(torso.place(-0.42, 0.30, top - 62), (14.0, 19.0, 24.0)), FLUID)
    painter.tube(
        ellipsoid(torso.place(0.80, 0.72, top + 8), (0.17 * wide, 0.50 * deep, 48.0), 2.2, -0.25),
        SPLEEN,
    )
    x, y, z = torso.place(0.44, 0.36, top + 8)
    half = (0.30 * wide, 0.42 * deep, 46.0)
    painter.hollow(
        ellipsoid((x, y, z), half, 2.2, 0.3),
        ellipsoid((x, y, z), (half[0] - 4, half[1] - 4, half[2] - 4), 2.2, 0.3),
        FLUID + 12,
        y - 0.45 * half[1],
    )
    level = spine["L1"]
    pancreas = (level.centre[0] + 12, level.centre[1] - level.half_depth - 40, level.centre[2] + 14)
    painter.tube(ellipsoid(pancreas, (52.0, 10.0, 13.0), 2.3, 0.28), 100.0)
    duodenum = (pancreas[0] - 44, pancreas[1] + 6, pancreas[2] - 22)
    painter.tube(ellipsoid(duodenum, (16.0, 15.0, 32.0)), BOWEL_WALL)
    painter.tube(ellipsoid(duodenum, (11.0, 10.0, 27.0)), FLUID + 15)


def _kidneys(canvas: Canvas, torso: Torso, spine: Spine, aorta_hu: float) -> None:
    for side in (-1, 1):
        canvas.paint_tube(kidney(torso, spine, side, 1.1), FAT)
        canvas.paint_tube(kidney(torso, spine, side, 1.0), aorta_hu + 18)
        canvas.paint_tube(kidney(torso, spine, side, 0.78), aorta_hu - 8)
        outer = kidney(torso, spine, side, 1.0)
        middle = len(outer.z) // 2
        hilum = outer.x[middle] - side * 9.0, outer.y[middle] - 5.0, outer.z[middle]
        canvas.paint_tube(ellipsoid(hilum, (12.0, 7.5, 25.0), angle=0.5 * side), FAT + 20)
        canvas.paint_tube(ellipsoid(hilum, (5.0, 4.0, 14.0)), 60.0)
        vein = (spine["L1"].centre[0] + side * 14.0, hilum[1] - 18.0, hilum[2])
        canvas.paint_capsule(hilum, vein, 3.4, aorta_hu - 12)


def _vessels(
    painter: _Painter, torso: Torso, spine: Spine, aorta_hu: float, rng: np.random.Generator
) -> None:
    canvas = painter.canvas
    for x, radii in ((-7.0, (4.0, 11.0)), (20.5, (3.0, 9.0))):  # crura of the diaphragm
        crus = vessel(torso, spine, x, radii, "T10")
        knots = np.stack([crus.z, crus.x, crus.y, crus.half_x, crus.half_y])
        canvas.paint_tube(Tube.of(*knots[:, crus.z >= spine["L2"].centre[2]]), SOFT)
    canvas.paint_tube(vessel(torso, spine, 9.0, (9.4, 9.4), "T9"), aorta_hu)
    canvas.paint_tube(vessel(torso, spine, -16.0, (12.0, 8.5), "T11"), aorta_hu - 22)
    level = spine["L4"]
    fork = level.world(0.0, -level.half_depth - 9.0, -level.height / 2)
    brim = spine["S1"].centre
    for side in (-1, 1):
        start = (fork[0] + 4.0 * (side + 1), fork[1], fork[2] + 10)
        end = (brim[0] + side * 42.0, brim[1] - 6.0, brim[2] - 20)
        canvas.paint_capsule(start, end, 5.6, aorta_hu)
        start = (fork[0] - 16.0 + 5.0 * (side + 1), fork[1] + 4.0, fork[2] + 6)
        canvas.paint_capsule(start, (end[0] - 3, end[1] + 13, end[2]), 6.6, aorta_hu - 22)
    first = spine["L1"].centre
    ahead = first[1] - spine["L1"].half_depth - 33.0
    for x, radius in ((5.0, 3.6), (-9.0, 5.6)):  # superior mesenteric artery and vein
        canvas.paint_capsule(
            (x, ahead, first[2]), (x, ahead - 14, level.centre[2]), radius, aorta_hu
        )
    wall = vessel(torso, spine, 9.0, (9.4, 9.4), "T11")
    for angle, share in rng.uniform(0, 1, (int(rng.integers(0, 7)), 2)):  # calcified plaques
        z = wall.z[0] + share * (wall.z[-1] - wall.z[0])
        x, y, radius = (np.interp(z, wall.z, knots) for knots in (wall.x, wall.y, wall.half_x))
        x += radius * np.cos(2 * np.pi * angle)
        y += radius * np.sin(2 * np.pi * angle)
        canvas.paint_capsule((x, y, z - 4), (x, y, z + 4), 1.3, 620.0)


def _bowel(painter: _Painter, torso: Torso, spine: Spine, rng: np.random.Generator) -> None:
    floor, roof = spine["S2"].centre[2] - 10, spine["L1"].centre[2] - 10
    _mesentery(painter, torso, floor, roof, rng)
    for _ in range(42):
        _small_bowel_loop(painter.canvas, torso, floor, roof, rng)
    for side, low, high in ((-1, "S1", "L2"), (1, "S1", "T12")):  # ascending, descending colon
        height = np.arange(spine[low].centre[2], spine[high].centre[2], 11.0)
        calibre = rng.uniform(15, 22) if side < 0 else rng.uniform(9, 15)
        for z in height:
            x, y, z = torso.place(0.83 * side, 0.66, float(z))
            _colon_segment(painter, (x, y, z), calibre * rng.uniform(0.85, 1.15), rng)
    for share in np.linspace(-0.7, 0.72, 15):  # transverse colon
        sag = 26.0 * (1 - (share / 0.72) ** 2)
        point = torso.place(float(share), 0.12 + 0.10 * abs(share), spine["L2"].centre[2] - sag)
        _colon_segment(painter, point, rng.uniform(14, 19), rng)


def _small_bowel_loop(
    canvas: Canvas, torso: Torso, floor: float, roof: float, rng: np.random.Generator
) -> None:
    """Paint a winding piece of small bowel: the wall all along, then the content all along."""
    radius = float(rng.uniform(8.0, 12.0))
    share, depth = float(rng.uniform(-0.62, 0.62)), float(rng.uniform(0.10, 0.45))
    z = float(rng.uniform(floor, roof))
    heading = rng.normal(size=3)
    points = []
    for _ in range(7):
        points.append(torso.place(share, depth, z))
        heading = 0.6 * heading + rng.normal(size=3)
        step = heading / np.linalg.norm(heading)
        share = float(np.clip(share + 0.11 * step[0], -0.66, 0.66))
        depth = float(np.clip(depth + 0.09 * step[1], 0.12, 0.5))
        z = float(np.clip(z + 11.0 * step[2], floor, roof))
    content = float(rng.choice([FLUID, FLUID + 20, BOWEL_WALL - 15]))
    for size, value in ((radius, BOWEL_WALL), (radius - 2.5, content)):
        for start, end in itertools.pairwise(points):
            canvas.paint_capsule(start, end, size, value)
    if rng.random() < 0.3:
        x, y, z = points[3]
        canvas.paint_capsule((x, y - 3, z), (x, y - 3, z), radius - 4.5, GAS)


def _mesentery(
    painter: _Painter, torso: Torso, floor: float, roof: float, rng: np.random.Generator
) -> None:
    root = torso.place(0.0, 0.55, (floor + roof) / 2 + 20)
    for _ in range(40):
        end = torso.place(rng.uniform(-0.6, 0.6), rng.uniform(0.15, 0.45), rng.uniform(floor, roof))
        start = [(a + 2 * b) / 3 for a, b in zip(root, end, strict=True)]
        painter.canvas.paint_capsule(start, end, float(rng.uniform(1.0, 2.2)), 120.0)


def _colon_segment(
    painter: _Painter, centre: Point, radius: float, rng: np.random.Generator
) -> None:
    shape = ellipsoid(centre, (radius, radius, 12.0))
    lumen = ellipsoid(centre, (radius - 2.2, radius - 2.2, 10.5))
    gas = centre[1] + float(rng.uniform(-0.8, 0.2)) * radius if rng.random() < 0.6 else None
    painter.hollow(shape, lumen, float(rng.uniform(5, 70)), gas)
    for dx, dy, dz in rng.uniform(-0.6, 0.6, (3, 3)):  # gas bubbles in the faeces
        point = (centre[0] + dx * radius, centre[1] + dy * radius, centre[2] + 8 * dz)
        painter.canvas.paint_capsule(point, point, float(rng.uniform(1.5, 3.5)), -500.0)
