"""What age, disease and surgery do to spine and trunk, as solids. RAS mm.

Shapes of fractures follow Genant et al. 1993 (wedge, biconcave, crush); they gather round T7 and
the thoracolumbar junction, as in every series. All draws take the chance from the caller's
generator and return what they did, so that a plan can state it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from monai_vfx.vertebrae.training.anatomy.label_map import (
    Blob,
    Frame,
    Rod,
    Shape,
    Solid,
    Vector,
    mm,
    solid,
)
from monai_vfx.vertebrae.training.anatomy.skeleton import LEVEL_NUMBERS, Collapse, Vertebra
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue
from monai_vfx.vertebrae.training.anatomy.trunk import Trunk

_TRABECULAR = frozenset((Tissue.BODY_TRABECULAR,))
_DISC = frozenset((Tissue.DISC,))
_FAT = frozenset((Tissue.VISCERAL_FAT,))
_ORGANS = frozenset(
    (
        *(Tissue.VISCERAL_FAT, Tissue.BOWEL_WALL, Tissue.BOWEL_CONTENT, Tissue.GAS),
        *(Tissue.FAECES, Tissue.PELVIC_ORGAN, Tissue.BLADDER, Tissue.PANCREAS),
        Tissue.STOMACH_WALL,
    )
)
_SOLID_ORGANS = frozenset((Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY))


@dataclass
class Findings:
    """What was drawn for a spine."""

    collapse: dict[str, Collapse] = field(default_factory=dict)  # level → loss of height
    kinds: dict[str, str] = field(default_factory=dict)  # level → kind of fracture
    # level → how far its body stands in front of the one below, mm
    slips: dict[str, float] = field(default_factory=dict)
    variants: set[str] = field(default_factory=set)  # names of what else there is
    # level → nodes in its endplates (relative u, v, upper or not, radius in mm)
    schmorl: dict[str, list[tuple[float, float, bool, float]]] = field(default_factory=dict)
    fused: tuple[str, ...] = ()  # levels joined by screws and rods, cranial to caudal


def draw_findings(rng: np.random.Generator, names: Sequence[str]) -> Findings:
    """Draw fractures, nodes, slips and operations for the levels from cranial to caudal."""
    found = Findings()
    trunk = [name for name in names if name[0] in "TL"]
    first_lumbar = trunk.index("L1")
    place = np.arange(len(trunk))
    weight = 0.15 + np.exp(-((place - first_lumbar + 0.5) ** 2) / 8)
    weight += 0.7 * np.exp(-((place - 6) ** 2) / 5)
    if rng.random() < 0.28:
        count = min(int(rng.geometric(0.5)), 5)
        for index in rng.choice(len(trunk), count, replace=False, p=weight / weight.sum()):
            kind, collapse = _draw_collapse(rng)
            found.kinds[trunk[index]], found.collapse[trunk[index]] = kind, collapse
    if rng.random() < 0.25:
        for name in rng.choice(trunk, int(rng.integers(1, 6)), replace=False):
            node = (*rng.uniform(-0.4, 0.4, 2), bool(rng.random() < 0.5), rng.uniform(3, 6.5))
            found.schmorl.setdefault(str(name), []).append(node)
    for name, share in ((trunk[-1], 0.04), (trunk[-2], 0.06), (trunk[-3], 0.02)):
        if rng.random() < share:
            found.slips[name] = rng.uniform(-4, 12)
            found.variants.add("listhesis")
    if rng.random() < 0.05:
        count = int(rng.integers(2, 5))
        start = int(rng.integers(max(0, len(trunk) - 8), len(trunk) - count + 1))
        found.fused = tuple(trunk[start : start + count])
        found.variants.add("instrumented")
    draw = rng.random()
    if draw < 0.05:
        found.variants.add("sacralised")
    elif draw < 0.075:
        found.variants.add("lumbarised")
    return found


def _draw_collapse(rng: np.random.Generator) -> tuple[str, Collapse]:
    """Return a kind of fracture and its loss of height: 20 to 70 %."""
    loss = float(np.clip(0.2 + rng.exponential(0.16), 0.2, 0.7))
    upper, lean = rng.uniform(0.3, 1.0), rng.normal(0, 0.08)
    kind = ("wedge", "biconcave", "crush")[int(rng.choice(3, p=(0.5, 0.35, 0.15)))]
    if kind == "wedge":
        shares = (loss, loss * rng.uniform(0.6, 1.0), loss * rng.uniform(0.0, 0.25))
    elif kind == "biconcave":
        shares = (loss * rng.uniform(0.0, 0.4), loss, loss * rng.uniform(0.0, 0.3))
        upper = rng.uniform(0.4, 0.7)
    else:
        shares = (loss, loss * rng.uniform(0.9, 1.1), loss * rng.uniform(0.8, 1.0))
    front, middle, back = (float(share) for share in shares)
    return kind, Collapse(front, middle, back, upper, lean)


def schmorl_parts(body: Vertebra, nodes: Sequence[tuple[float, float, bool, float]]) -> list[Shape]:
    """Return the dents that nodes leave in a body's endplates."""
    dents: list[Shape] = []
    for right, front, upper, radius in nodes:
        height = body.size.height / 2 * (1 if upper else -1)
        frame = body.frame.moved(right * body.half_width, front * body.half_depth, height)
        dents.append(Blob(frame, (radius * 1.2, radius, radius * 0.9)))
    return dents


def make_osteophytes(rng: np.random.Generator, spine: Sequence[Vertebra]) -> list[Solid]:
    """Return spurs at the rims of bodies and the bridges of a stiffening spine (DISH)."""
    solids = []
    degree = float(rng.choice((0.0, rng.uniform(0, 0.3), rng.uniform(0.3, 0.9)), p=(0.4, 0.4, 0.2)))
    layers = ((Tissue.BODY_CORTEX, 0.0), (Tissue.BODY_TRABECULAR, 2.5))
    bodies = [body for body in spine if body.name[0] in "TL"]
    for upper, lower in itertools.pairwise(bodies):
        if rng.random() > degree:
            continue
        angle = rng.normal(0, 1.1)
        long = rng.uniform(2.0, 6.0)
        ends = []
        for body, sign in ((upper, -1), (lower, 1)):
            height = sign * (body.size.height / 2 - 1.0)
            right, front = np.sin(angle) * body.half_width, np.cos(angle) * body.half_depth
            rim = body.frame.world(right, front, height)
            outward = body.frame.axes @ (np.sin(angle), np.cos(angle), 0.0)
            tip = rim + outward * long - sign * body.frame.axes[:, 2] * rng.uniform(-1, 3)
            ends.append((rim - outward * 3, tip))
            wide = rng.uniform(2.2, 4.0)
            spur = (Rod(rim - outward * 3, tip, wide, wide * 0.6),)
            solids.append(Solid(spur, layers, level=LEVEL_NUMBERS[body.name]))
        if rng.random() < 0.2:  # the two spurs meet
            middle = (ends[0][1] + ends[1][1]) / 2
            for body, (_, tip) in zip((upper, lower), ends, strict=True):
                bridge = (Rod(tip, middle, 2.4),)
                solids.append(Solid(bridge, layers, level=LEVEL_NUMBERS[body.name]))
    if rng.random() < 0.05:
        solids += _dish(rng, bodies, layers)
    return solids


def _dish(
    rng: np.random.Generator,
    bodies: Sequence[Vertebra],
    layers: tuple[tuple[Tissue, float], ...],
) -> list[Solid]:
    """Return ossified ligament that flows over four or more levels at the front right."""
    count = int(rng.integers(4, 9))
    start = int(rng.integers(3, len(bodies) - count))
    angle, thick = rng.uniform(0.2, 1.0), rng.uniform(2.0, 4.0)
    solids = []
    for body in bodies[start : start + count]:
        right = np.sin(angle) * (body.half_width + 1)
        front = np.cos(angle) * (body.half_depth + 1)
        reach = (body.size.height + body.size.disc) / 2
        rod = Rod(
            body.frame.world(right, front, -reach), body.frame.world(right, front, reach), thick
        )
        solids.append(Solid((rod,), layers, level=LEVEL_NUMBERS[body.name]))
    return solids


def make_vacuum(rng: np.random.Generator, disc: Vertebra) -> Solid:
    """Return gas in a disc."""
    half = (disc.half_width * rng.uniform(0.3, 0.7), disc.half_depth * rng.uniform(0.2, 0.6), 1.6)
    frame = disc.frame.moved(rng.normal(0, 4), rng.normal(0, 4), 0.0)
    return Solid((Blob(frame, half, 2.0, 0.1, rng.uniform(0, 9)),), _GAS, over=_DISC)


_GAS = ((Tissue.DISC_VACUUM, 0.0),)


def make_cement(rng: np.random.Generator, body: Vertebra) -> Solid:
    """Return the cement of a vertebroplasty."""
    parts: list[Shape] = []
    for _ in range(int(rng.integers(2, 5))):
        place = rng.uniform(-0.5, 0.5, 3) * (body.half_width, body.half_depth, body.size.height / 2)
        half = rng.uniform(4, 9, 3)
        frame = body.frame.moved(*(float(p) for p in place))
        parts.append(Blob(frame, tuple(half), 2.0, 0.08, rng.uniform(0, 9)))
    return solid(Tissue.CEMENT, *parts, over=_TRABECULAR, level=None, blend=3.0)


def make_implants(rng: np.random.Generator, bodies: Sequence[Vertebra]) -> list[Solid]:
    """Return pedicle screws, the rods between their heads, and now and then a cage."""
    metal = ((Tissue.METAL, 0.0),)
    shapes: list[Shape] = []
    thick = rng.uniform(2.4, 3.4)
    for side in (1, -1):
        heads = []
        for body in bodies:
            lateral = body.half_width * (0.60 if body.name[0] == "T" else 0.66)
            entry = body.frame.world(side * (lateral + 4), -(body.half_depth + 24), 5.0)
            tip = body.frame.world(side * lateral * 0.5, body.half_depth * 0.4, 3.0)
            shapes += [Rod(entry, tip, thick), Rod(entry, 0.9 * entry + 0.1 * tip, 5.5)]
            heads.append(entry)
        shapes += [Rod(a, b, 2.9) for a, b in itertools.pairwise(heads)]
    if rng.random() < 0.4:
        upper, lower = bodies[-2:]
        middle = (upper.frame.origin + lower.frame.origin) / 2
        ends = [middle + lower.frame.axes @ (x, 0, 0) for x in (-9.0, 9.0)]
        shapes.append(Rod(ends[0], ends[1], max(3.5, upper.size.disc / 2)))
    return [Solid(tuple(shapes), metal, level=None)]


def make_fluid(rng: np.random.Generator, spine: Sequence[Vertebra], trunk: Trunk) -> list[Solid]:
    """Return ascites and pleural fluid, each in some persons; to be painted after the organs."""
    at = {body.name: body.frame.origin for body in spine}
    solids = []
    if rng.random() < 0.06:
        low, high = float(trunk.z[0]), float(at["T10"][2])
        cavity = trunk.between(trunk.column(0, 0.0), low, high)
        x, y, half, front, _ = trunk.at(at["L3"][2])
        share = rng.uniform(0.5, 0.95)
        middle = Frame(mm(x, y + 0.4 * front, float(at["L3"][2])))
        dry = Blob(middle, (half * share, front * share, 170.0))
        retro = Blob(Frame(mm(x, y - 40.0, 0.0)), (half * 1.2, 75.0, 400.0), 4.0)
        fluid = ((Tissue.ASCITES, 0.0),)
        solids.append(Solid((cavity,), fluid, minus=(dry, retro), over=_FAT))
    lung = frozenset((Tissue.LUNG,))
    for side in (1, -1):
        if rng.random() < 0.07:
            x, y, half, _, back = trunk.at(at["T10"][2])
            depth = rng.uniform(15, 80)
            place = np.array(
                [x + side * half * 0.6, y - back - 60 + depth, float(at["T10"][2]) - 20]
            )
            pool = Blob(Frame(place), (half * 0.7, 60.0, rng.uniform(60, 130)), 3.0)
            solids.append(solid(Tissue.PLEURAL_FLUID, pool, over=lung))
    return solids


def make_masses(
    rng: np.random.Generator, spine: Sequence[Vertebra], pelvis: Frame, trunk: Trunk
) -> list[Solid]:
    """Return cysts, a large cystic mass, nodes and tumours, each in some persons."""
    at = {body.name: body.frame.origin for body in spine}
    k = trunk.habitus.size
    solids = []
    if rng.random() < 0.10:
        radius = rng.uniform(25, 115)
        centre = pelvis.world(rng.normal(0, 25), 62 * k, -70 * k + radius * 0.9)
        a, b, c = (float(r) for r in radius * rng.uniform(0.75, 1.15, 3))
        mass = Blob(Frame(centre), (a, b, c), 2.1, 0.06, rng.uniform(0, 9))
        layers = ((Tissue.SOLID_MASS, 0.0), (Tissue.CYST, rng.uniform(1.5, 6.0)))
        solids.append(Solid((mass,), layers, over=_ORGANS))
    parts: list[Shape] = []
    if rng.random() < 0.10:  # nodes along the great vessels
        for _ in range(int(rng.integers(3, 14))):
            body = spine[-int(rng.integers(1, 7))]
            place = body.frame.world(rng.normal(0, 22), body.half_depth + rng.uniform(4, 28), 0)
            parts.append(_ball(rng, place, 5.0, 16.0))
        solids.append(solid(Tissue.SOLID_MASS, *parts, over=_FAT, blend=2.0))
    cysts: list[Shape] = []
    if rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 7))):
            x, y, half, front, _ = trunk.at(at["L1"][2])
            spread = mm(rng.choice((-1, 1)) * 0.55 * half, 0.05 * front, at["L1"][2] + 10)
            place = mm(x, y, 0.0) + spread + rng.normal(0, 30, 3)
            cysts.append(_ball(rng, place, 4.0, 28.0))
        solids.append(solid(Tissue.CYST, *cysts, over=_SOLID_ORGANS | _FAT))
    return solids


def make_calcifications(
    rng: np.random.Generator, spine: Sequence[Vertebra], k: float
) -> list[Solid]:
    """Return plaques of the aorta, stones and calcified nodes."""
    plaques: list[Shape] = []
    burden = float(rng.choice((0.0, 0.25, 0.8), p=(0.55, 0.3, 0.15)))
    vessels = frozenset((Tissue.AORTA,))
    for body in spine:
        if body.name[0] == "C":
            continue
        for _ in range(int(rng.poisson(4 * burden))):
            place = body.frame.world(
                -12 + rng.normal(0, 9),
                body.half_depth + 11 * k + rng.normal(0, 9),
                rng.normal(0, 12),
            )
            plaques.append(_ball(rng, place, 1.5, 4.5))
    others = [
        _ball(rng, mm(rng.normal(0, 70), rng.uniform(-10, 80), rng.normal(30, 60)), 1.5, 7.0)
        for _ in range(int(rng.poisson(1.2)))
    ]
    calcified = ((Tissue.CALCIFICATION, 0.0),)
    inner = _SOLID_ORGANS | _FAT | frozenset((Tissue.GALLBLADDER, Tissue.KIDNEY_PELVIS))
    solids = []
    if plaques:
        solids.append(Solid(tuple(plaques), calcified, over=vessels))
    if others:
        solids.append(Solid(tuple(others), calcified, over=inner))
    return solids


def _ball(rng: np.random.Generator, place: Vector, low: float, high: float) -> Blob:
    half = rng.uniform(low, high) * rng.uniform(0.7, 1.2, 3)
    return Blob(Frame(place), (float(half[0]), float(half[1]), float(half[2])))
