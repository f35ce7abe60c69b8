"""Skin, fat, the muscles of the back and the pelvis, and the canal as solids. RAS mm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from monai_vfx.vertebrae.training.anatomy.label_map import (
    Column,
    Frame,
    Rod,
    Shape,
    Solid,
    Vector,
    mm,
    solid,
)
from monai_vfx.vertebrae.training.anatomy.pelvis import wing_points
from monai_vfx.vertebrae.training.anatomy.skeleton import Vertebra
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue
from monai_vfx.vertebrae.training.anatomy.trunk import Trunk

#: level: distance from the midline, depth behind the back wall, semi-axes of the erector spinae, mm
_ERECTOR: dict[str, tuple[float, float, float, float]] = {
    "C6": (16.0, 30.0, 14.0, 12.0),
    "T2": (18.0, 36.0, 17.0, 12.0),
    "T6": (22.0, 38.0, 21.0, 13.0),
    "T10": (31.0, 33.0, 30.0, 15.0),
    "rib12": (35.0, 31.0, 34.0, 17.0),
    "L2": (36.0, 33.0, 35.0, 21.0),
    "last": (32.0, 36.0, 31.0, 21.0),
    "S1": (26.0, 31.0, 24.0, 15.0),
    "S2": (18.0, 26.0, 14.0, 9.0),
    "S3": (11.0, 22.0, 7.0, 5.0),
}
#: level: beyond the side wall, before the centre, semi-axes of the psoas, mm
_PSOAS: dict[str, tuple[float, float, float, float]] = {
    "rib12": (1.0, -10.0, 3.0, 5.0),
    "L1": (4.0, -8.0, 6.0, 9.0),
    "L2": (8.0, -6.0, 11.0, 14.0),
    "L3": (12.0, -4.0, 15.0, 18.0),
    "L4": (15.0, 0.0, 19.0, 21.0),
    "last": (16.0, 8.0, 20.0, 20.0),
}
#: the same below: side, front and height from S1, semi-axes
_PSOAS_LOW = (
    (65.0, 32.0, -18.0, 20.0, 19.0),
    (82.0, 52.0, -50.0, 19.0, 17.0),
    (94.0, 56.0, -85.0, 18.0, 15.0),
    (101.0, 40.0, -115.0, 15.0, 14.0),
    (104.0, 6.0, -150.0, 7.0, 7.0),
)
_SOFT = frozenset(
    (
        *(Tissue.MUSCLE, Tissue.SUBCUTANEOUS_FAT, Tissue.VISCERAL_FAT, Tissue.ERECTOR_SPINAE),
        *(Tissue.PSOAS, Tissue.QUADRATUS, Tissue.POSTERIOR_CORTEX, Tissue.POSTERIOR_TRABECULAR),
        *(Tissue.SACRUM_CORTEX, Tissue.SACRUM_TRABECULAR, Tissue.EPIDURAL_FAT, Tissue.CANAL),
    )
)
"""What the canal may replace: no body and no disc."""
_INNER = frozenset((Tissue.VISCERAL_FAT, Tissue.LUNG))


def make_wall(rng: np.random.Generator, trunk: Trunk, legs: Vector) -> list[Solid]:
    """Return skin, subcutaneous fat, wall and the fat inside it; thighs hang below ``legs``."""
    skin = ((Tissue.SKIN, -2.0), (Tissue.SUBCUTANEOUS_FAT, 0.0))
    size, fat = trunk.habitus.size, float(trunk.fat[0])
    solids = [Solid((trunk.column(3, 0.0, fat=True),), skin)]
    top = float(trunk.z[0]) + 40.0
    for side in (1, -1):
        z = mm(top - 330.0, top - 60.0, top)
        x = legs[0] + side * mm(80.0, 92.0, 90.0) * size
        y = np.full(3, legs[1] + 5.0)
        half = mm(62.0, 82.0, 84.0) * size
        solids.append(Solid((Column(z, x, y, half + fat * 0.6, half + fat * 0.6),), skin))
        solids.append(solid(Tissue.MUSCLE, Column(z, x, y, half, half)))
    solids.append(solid(Tissue.MUSCLE, trunk.column(3, 0.0)))
    muscle = frozenset((Tissue.MUSCLE,))
    between = (Tissue.SUBCUTANEOUS_FAT, 0.0)
    for share in rng.uniform(0.2, 0.8, int(rng.integers(0, 3))):
        half, front, back = (trunk.rows[:, i + 3] - trunk.rows[:, i] for i in range(3))
        depth = share * np.minimum(half, np.minimum(front, back))
        layers = (between, (Tissue.MUSCLE, rng.uniform(1.0, 2.5)))
        solids.append(Solid((trunk.column(3, -depth),), layers, over=muscle))
    solids.append(solid(Tissue.VISCERAL_FAT, trunk.column(0, 0.0)))
    return solids


def make_guard(spine: Sequence[Vertebra], sacrum: Sequence[Vertebra]) -> Solid:
    """Return muscle round the canal and the arches, so that no organ gets there."""
    bodies = [body for body in (*spine, *sacrum[:4]) if body.name[0] in "TLS"]
    path = [body.frame.world(0.0, -body.half_depth - 17.0, 0.0) for body in bodies]
    flat = [body.frame.axes[:, 1] for body in bodies]
    rods = tuple(
        Rod(a, b, 30.0, flat=n, ratio=2.0)
        for a, b, n in zip(path[:-1], path[1:], flat[:-1], strict=True)
    )
    return solid(Tissue.MUSCLE, *rods, over=_INNER)


def make_muscles(
    spine: Sequence[Vertebra],
    sacrum: Sequence[Vertebra],
    pelvis: Frame,
    bulk: tuple[float, float],
    scale: tuple[float, float],
    fat: float,
) -> list[Solid]:
    """Return erector spinae, psoas with iliacus, and quadratus lumborum.

    ``bulk`` is the thickness of the erector spinae and of the psoas relative to the usual one,
    ``scale`` the person's size and the pelvis's breadth; ``fat`` (mm) covers the back where the
    muscles bulge.
    """
    by_name = _named(spine, sacrum)
    size, breadth = scale
    solids = []
    for side in (1, -1):
        erector, psoas, quadratus = [], [], []
        for name, (u, v, half_x, half_y) in _ERECTOR.items():
            body = by_name[name]
            thick = bulk[0] * size
            start = body.half_depth + v * size - (1 - bulk[0]) * half_y
            place = body.frame.world(side * (u - (1 - bulk[0]) * half_x * 0.5) * size, -start, 0.0)
            erector.append((*place, half_x * thick, half_y * thick))
        for name, (u, v, half_x, half_y) in _PSOAS.items():
            body, thick = by_name[name], bulk[1] * size
            if body is by_name["last"] and name != "last":
                continue
            beside = body.half_width + u * size - (1 - bulk[1]) * half_x * 0.8
            place = body.frame.world(side * beside, v * size, 0.0)
            psoas.append((*place, half_x * thick, half_y * thick))
        for u, v, w, half_x, half_y in _PSOAS_LOW:
            place = pelvis.world(side * u * size * breadth, v * size, w * size)
            psoas.append((*place, half_x * bulk[1] * size, half_y * bulk[1] * size))
        last = by_name["last"]
        reach = ((by_name["rib12"], 30.0, 8.0, 5.0), (by_name["L2"], 34.0, 16.0, 8.0))
        for body, u, half_x, half_y in (*reach, (last, 40.0, 19.0, 8.0)):
            place = body.frame.world(side * (body.half_width + u * size), -20.0 * size, 0.0)
            quadratus.append((*place, half_x * size, half_y * size))
        solids.append(solid(Tissue.QUADRATUS, _column(quadratus, 2.2)))
        iliacus: list[Shape] = [_column(psoas, 2.3)]
        goal = pelvis.world(side * 90 * size * breadth, 48 * size, -82 * size)
        for point in wing_points(pelvis, side, size, breadth):
            iliacus.append(Rod(point, goal, 8.0 * bulk[1] * size, 12.0 * bulk[1] * size))
        solids.append(solid(Tissue.PSOAS, *iliacus, blend=5.0))
        back = (_column(erector, 2.7),)
        cover = ((Tissue.SKIN, -fat - 2.0), (Tissue.SUBCUTANEOUS_FAT, -fat))
        outside = frozenset((Tissue.AIR, Tissue.SKIN, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM))
        solids.append(Solid(back, cover, over=outside))
        solids.append(solid(Tissue.ERECTOR_SPINAE, *back))
    return solids


def make_canal(spine: Sequence[Vertebra], sacrum: Sequence[Vertebra], wide: float) -> list[Solid]:
    """Return epidural fat, thecal sac and cord; ``wide`` is relative to the usual width."""
    fat: list[Shape] = []
    sac: list[Shape] = []
    cord: list[Shape] = []
    points: list[tuple[Vector, float, str]] = []
    for body in (*spine, *sacrum[:4]):
        thoracic = body.name[0] in "CT"
        radius = {"C": 7.5, "T": 7.0, "L": 8.5}.get(body.name[0], 9.5 - 2 * int(body.name[1:]))
        back = body.half_depth * 0.9 + radius + (0.5 if thoracic else 1.0)
        for share in (0.45, -0.45):
            place = body.frame.world(0.0, -back, share * body.size.height)
            points.append((place, radius * body.span, body.name))
    for (start, first, name), (end, last, _) in itertools.pairwise(points):
        fat.append(Rod(start, end, first + 1.0, last + 1.0))
        if name not in ("S3", "S4"):
            sac.append(Rod(start, end, first * wide * 0.9, last * wide * 0.9))
        if name[0] in "CT":
            cord.append(Rod(start, end, 4.2))
    foramina: list[Shape] = []
    for body in spine:
        if body.name[0] in "TL":
            w, v = -body.size.height * 0.42, -(body.half_depth + 5.0)
            reach = body.half_width * 0.95
            ends = [body.frame.world(x, v, w) for x in (-reach, reach)]
            foramina.append(Rod(ends[0], ends[1], 3.6 * body.span))
    return [
        solid(Tissue.EPIDURAL_FAT, *foramina, over=_SOFT),
        solid(Tissue.EPIDURAL_FAT, *fat, over=_SOFT),
        solid(Tissue.CANAL, *sac, over=_SOFT),
        solid(Tissue.SPINAL_CORD, *cord, over=_SOFT),
    ]


def _named(spine: Sequence[Vertebra], sacrum: Sequence[Vertebra]) -> dict[str, Vertebra]:
    found = {body.name: body for body in (*spine, *sacrum)}
    found["last"] = spine[-1]
    found["rib12"] = [body for body in spine if body.name.startswith("T")][-1]
    return found


def _column(knots: Sequence[Sequence[float]], power: float) -> Column:
    """Return a column through (x, y, z, half_x, half_y) knots, ordered by height."""
    table = np.array(sorted(knots, key=lambda knot: knot[2]))
    table[:, 2] += np.arange(len(table)) * 1e-3
    x, y, z, half_x, half_y = table.T
    return Column(z, x, y, half_x, half_y, power)
