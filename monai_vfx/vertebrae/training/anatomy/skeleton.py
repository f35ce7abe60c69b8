"""The spine of a body plan: sizes of every level, the curve, bodies, discs and arches as solids.

RAS mm. Sizes T9-L5 are those of :mod:`monai_vfx.core.vertebra_sizes`. T1-T8 follow Panjabi et al.
1991 ("Thoracic human vertebrae", Spine 16:888) and C3-C7 Panjabi et al. 1991 ("Cervical human
vertebrae", Spine 16:861): heights of the posterior wall, depths and widths of the endplates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from monai_vfx.core.anatomy import VERTEBRAE
from monai_vfx.core.vertebra_sizes import SIZES, LevelSize
from monai_vfx.vertebrae.training.anatomy.label_map import (
    Box,
    Field,
    Frame,
    Grid,
    Rod,
    Shape,
    Vector,
)
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue

BODY_LAYERS = ((Tissue.BODY_CORTEX, 0.0), (Tissue.BODY_TRABECULAR, 1.5))
ARCH_LAYERS = ((Tissue.POSTERIOR_CORTEX, 0.0), (Tissue.POSTERIOR_TRABECULAR, 1.8))
LEVEL_NUMBERS: dict[str, int] = {**{f"C{n}": n for n in range(1, 8)}, **VERTEBRAE}
"""Level name → number in the map of vertebrae (VerSe)."""

_CERVICAL: dict[str, LevelSize] = {
    "C3": LevelSize(13.0, 0.0, 15.6, 17.0, 5.0, -6.0, 24.0),
    "C4": LevelSize(12.8, 0.0, 15.9, 17.5, 5.0, -10.0, 25.0),
    "C5": LevelSize(12.5, 0.0, 16.5, 18.5, 5.0, -16.0, 26.0),
    "C6": LevelSize(12.5, 0.0, 17.5, 20.0, 5.0, -21.0, 27.0),
    "C7": LevelSize(13.8, 0.0, 17.0, 23.0, 4.5, -25.0, 32.0),
}
_THORACIC: dict[str, LevelSize] = {
    "T1": LevelSize(16.0, -0.5, 18.5, 27.8, 3.5, -25.0, 37.0),
    "T2": LevelSize(16.8, -0.8, 20.3, 27.4, 2.8, -22.0, 34.0),
    "T3": LevelSize(17.2, -1.0, 22.0, 26.5, 2.6, -19.0, 31.0),
    "T4": LevelSize(17.6, -1.2, 23.6, 26.8, 2.5, -15.0, 30.0),
    "T5": LevelSize(18.2, -1.4, 25.0, 27.8, 2.5, -11.0, 30.0),
    "T6": LevelSize(18.8, -1.6, 26.2, 29.2, 2.6, -7.0, 30.0),
    "T7": LevelSize(19.4, -1.6, 27.4, 30.6, 2.7, -3.0, 29.0),
    "T8": LevelSize(20.2, -1.5, 28.4, 32.2, 2.8, 1.0, 28.0),
    **{name: size for name, size in SIZES.items() if name.startswith("T")},
}
_LUMBAR = {name: size for name, size in SIZES.items() if name.startswith("L")}


@dataclass(frozen=True)
class Collapse:
    """Loss of height of a fractured body; shares of the height at the three places."""

    anterior: float  # lost at the anterior wall; `middle` and `posterior` likewise
    middle: float
    posterior: float
    upper: float  # share of the loss taken from the upper endplate
    lean: float = 0.0  # loss on the right minus on the left side, a share of the height


INTACT = Collapse(0.0, 0.0, 0.0, 0.5)


@dataclass(frozen=True, eq=False)
class Vertebra:
    """One vertebra's place and size, mm; a segment of the sacrum likewise."""

    name: str  # level
    frame: Frame  # of the body: its axes, and its centre before any collapse
    size: LevelSize  # expected sizes, scaled to the person
    depression: float  # depth of the endplates' concavity, each
    flare: float  # how much wider the rims are than the waist, a share
    span: float  # the person's breadth relative to the table
    collapse: Collapse = INTACT  # of a fractured body
    coronal: float = 0.0  # tilt to the patient's right in degrees; `turn` is the axial rotation
    turn: float = 0.0

    @property
    def half_depth(self) -> float:
        """Half of the antero-posterior width, mm."""
        return self.size.depth / 2

    @property
    def half_width(self) -> float:
        """Half of the left-right width, mm."""
        return self.size.width / 2


@dataclass(frozen=True, eq=False)
class Body:
    """A vertebral body: a cylinder with a waist, a hollow back wall and concave endplates."""

    vertebra: Vertebra

    def box(self) -> Box:
        """Return the corners of the body's box, mm."""
        v = self.vertebra
        wide = 1 + 1.5 * abs(v.flare)
        half = (v.half_width * wide, v.half_depth * wide, v.size.height / 2 + abs(v.size.wedge))
        reach = np.abs(v.frame.axes) @ half
        return v.frame.origin - reach, v.frame.origin + reach

    def distance(self, grid: Grid) -> Field:
        """Return signed distances in mm, about exact near the surface."""
        body = self.vertebra
        u, v, w = body.frame.local(grid)
        half = np.float32(body.size.height / 2)
        across, along = u / np.float32(body.half_width), v / np.float32(body.half_depth)
        rim = 1 + np.float32(body.flare) * np.minimum((w / half) ** 2, 1.4)
        square = across * across
        # Exponent 2.5 as in the lumbar phantom, near enough by a mean of a circle and a square.
        rho = np.sqrt(np.sqrt(square * square + along**4) * 0.45 + (square + along * along) * 0.55)
        rho /= rim
        side = (rho - 1) * np.float32(body.half_depth)
        hollow = np.float32(body.half_depth) * (0.86 + 0.14 * np.minimum(square / 0.3, 1.0))
        side = np.maximum(side, -v - hollow * rim)
        dish = np.float32(body.depression) * np.maximum(1 - rho * rho, 0)
        end = half + along * np.float32(body.size.wedge / 4) - dish
        lost = body.collapse
        if lost is INTACT:
            return np.asarray(np.maximum(side, np.abs(w) - end), dtype=np.float32)
        front = np.clip(along, -1, 1)
        bend = (lost.anterior + lost.posterior) / 2 - lost.middle
        loss = lost.middle + (lost.anterior - lost.posterior) / 2 * front + bend * front * front
        loss = loss + np.float32(lost.lean / 2) * np.clip(across, -1, 1)
        loss = np.clip(loss, 0, 0.85) * np.float32(body.size.height)
        top = w - (end - loss * np.float32(lost.upper))
        bottom = -w - (end - loss * np.float32(1 - lost.upper))
        return np.asarray(np.maximum(side, np.maximum(top, bottom)), dtype=np.float32)


def body_centre(body: Vertebra) -> Vector:
    """Return the centroid (3,) of a body in RAS mm, by counting points 1.5 mm apart."""
    plain = replace(body, frame=Frame(np.zeros(3)))
    reach = Body(plain).box()[1]
    axes = [np.arange(-r, r + 1.5, 1.5, dtype=np.float32) for r in reach]
    inside = Body(plain).distance((axes[0][:, None, None], axes[1][None, :, None], axes[2])) < 0
    found = [axis[index].mean() for axis, index in zip(axes, np.nonzero(inside), strict=True)]
    return body.frame.world(*(float(value) for value in found))


def disc_between(upper: Vertebra, lower: Vertebra, bulge: float = 1.04) -> Body:
    """Return the disc between two bodies: it reaches into both, which are painted over it."""
    reach = 7.0
    top = upper.frame.world(0, 0, -upper.size.height / 2)
    bottom = lower.frame.world(0, 0, lower.size.height / 2)
    middle = (np.deg2rad(upper.size.tilt + lower.size.tilt) / 2, upper.coronal + lower.coronal)
    lost = [v.collapse for v in (upper, lower)]
    most = [max(c.anterior, c.middle, c.posterior) for c in lost]
    deep = most[0] * (1 - lost[0].upper) * upper.size.height
    deep += most[1] * lost[1].upper * lower.size.height
    size = replace(
        upper.size,
        height=upper.size.disc + reach + 2 * deep,
        wedge=0.0,
        depth=(upper.size.depth + lower.size.depth) / 2 * bulge,
        width=(upper.size.width + lower.size.width) / 2 * bulge,
    )
    axes = rotation(middle[0], np.deg2rad(middle[1] / 2), np.deg2rad((upper.turn + lower.turn) / 2))
    frame = Frame((top + bottom) / 2, axes)
    return Body(Vertebra("disc", frame, size, 0.0, 0.0, upper.span))


def rotation(tilt: float, coronal: float, turn: float) -> Vector:
    """Return axes (3, 3) of a body in RAS; angles are in radians.

    A positive tilt leans the upper end to the back, a positive coronal one to the patient's right;
    ``turn`` is about z, from right towards front.

    >>> rotation(0.5, 0.0, 0.0)[:, 2].round(2) + 0.0  # up leans to the back
    array([ 0.  , -0.48,  0.88])
    >>> bool(rotation(0.0, 0.2, 0.0)[0, 2] > 0)
    True
    """
    a, b, c = np.cos([tilt, coronal, turn])
    d, e, f = np.sin([tilt, coronal, turn])
    sagittal = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    sideways = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    axial = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return np.asarray(axial @ sideways @ sagittal)


def level_names(thoracic: int, lumbar: int) -> tuple[str, ...]:
    """Return the level names from C3 to the last lumbar one, cranial to caudal."""
    return (
        *_CERVICAL,
        *(f"T{n}" for n in range(1, thoracic + 1)),
        *(f"L{n}" for n in range(1, lumbar + 1)),
    )


def expected_sizes(thoracic: int, lumbar: int) -> dict[str, LevelSize]:
    """Return the sizes of all levels from C3; unusual counts share the usual range of sizes.

    >>> sizes = expected_sizes(12, 6)
    >>> sizes["L6"] == SIZES["L5"], 27.5 < sizes["L5"].height <= 28.5
    (True, True)
    """
    sizes = dict(_CERVICAL)
    for letter, count, table in (("T", thoracic, _THORACIC), ("L", lumbar, _LUMBAR)):
        rows = np.array([list(size.__dict__.values()) for size in table.values()])
        places = np.linspace(0, len(rows) - 1, count)
        for number, place in enumerate(places, start=1):
            values = [float(np.interp(place, range(len(rows)), column)) for column in rows.T]
            sizes[f"{letter}{number}"] = LevelSize(*values)
    return sizes


def stack(pieces: list[Vertebra], slips: dict[str, float]) -> list[Vertebra]:
    """Place vertebrae (cranial to caudal, oriented) one above the other, the third lumbar one at 0.

    ``slips`` are level → how far it stands in front of the one below, mm.
    """
    place = np.zeros(3)
    places = [place]
    for upper, lower in itertools.pairwise(pieces):
        gap = upper.frame.axes[:, 2] + lower.frame.axes[:, 2]
        place = (
            place
            - (upper.size.height / 2 - _settled(upper, False)) * upper.frame.axes[:, 2]
            - upper.size.disc * gap / np.linalg.norm(gap)
            - (lower.size.height / 2 - _settled(lower, True)) * lower.frame.axes[:, 2]
            - slips.get(upper.name, 0.0) * lower.frame.axes[:, 1]
        )
        places.append(place)
    origin = places[[piece.name for piece in pieces].index("L3")]
    return [
        replace(piece, frame=Frame(at - origin, piece.frame.axes))
        for piece, at in zip(pieces, places, strict=True)
    ]


def _settled(body: Vertebra, upper: bool) -> float:
    """Return by how many mm the neighbour of a collapsed endplate comes nearer."""
    lost = body.collapse
    share = lost.upper if upper else 1 - lost.upper
    rims = (lost.anterior + lost.posterior) / 2
    return 0.8 * min(lost.middle, rims) * share * body.size.height


def arch_parts(body: Vertebra, process: float = 1.0, droop: float = 1.0) -> tuple[Shape, ...]:
    """Return the parts of a vertebra's arch: pedicles, facets, laminae and processes.

    The length of the transverse processes and the spinous one's droop are relative to the usual.
    """
    region = body.name[0]
    number = int(body.name[1:])
    thoracic = region == "T"
    back, k = body.half_depth * 0.9, body.span
    canal = (14.0 if thoracic else 16.0) * k
    low = min(1.0, body.size.height / 25.0)
    lateral = body.half_width * {"T": 0.60, "L": 0.66, "C": 0.72}[region]
    if thoracic and number < 9:
        lateral = max(lateral, 9.0 * k)
    wide = {"C": 2.6, "T": 2.8 + 0.12 * number, "L": 3.6 + 0.55 * number}[region]
    parts: list[Shape] = []

    def add(
        radius: float, start: tuple[float, ...], end: tuple[float, ...], last: float | None = None
    ) -> None:
        for side in (-1, 1):
            first = body.frame.world(side * start[0], -start[1], start[2] * low)
            second = body.frame.world(side * end[0], -end[1], end[2] * low)
            parts.append(Rod(first, second, radius * k, None if last is None else last * k))

    pillar = back + canal * 0.75
    for w in (2.0, 7.0):  # a pedicle is taller than wide: two rods, one above the other
        add(wide, (lateral, back - 4, w), (lateral, pillar, w - 1))
    add(4.4, (lateral + 1.5, pillar, 15.0), (lateral + 0.5, pillar + 2, 3.0))
    add(4.4, (lateral, pillar + 3, 2.0), (lateral - 3.5, pillar + 7, -17.0))
    for w in (7.0, 0.0, -8.0):
        add(3.0, (lateral - 1, pillar + 3, w), (2.0, back + canal + 6, w - 5))
    reach = max(body.size.process * process, lateral + 8)
    if thoracic:
        backward = 15.0 if number < 11 else 9.0
        add(4.0, (lateral, pillar - 1, 4.0), (reach, pillar + backward, 8.0), 4.4)
    else:
        thick = 3.4 if number < 5 or region == "C" else 6.0
        for w in (2.0, 6.0):
            add(thick, (lateral, pillar - 3, w), (reach, pillar + 4, w + 1), thick * 0.75)
    tip = back + canal + (26.0 if thoracic else 29.0 if region == "L" else 20.0) * k
    drop = {"T": -24.0 if number < 10 else -14.0, "L": -4.0, "C": -8.0}[region]
    for w in (0.0, -5.0, -10.0, -15.0):
        tall = 0.8 if thoracic else 1.0
        start = body.frame.world(0, -(back + canal + 6), w * low)
        end = body.frame.world(0, -tip, (w + drop * droop) * tall * low)
        parts.append(Rod(start, end, (2.8 if thoracic else 3.1) * k))
    return tuple(parts)
