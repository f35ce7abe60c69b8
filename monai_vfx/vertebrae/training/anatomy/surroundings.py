"""What lies round the trunk: the couch, arms, shoulders and head as solids. RAS mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_vfx.vertebrae.training.anatomy.label_map import (
    Blob,
    Column,
    Frame,
    Rod,
    Shape,
    Solid,
    Vector,
    chain,
    mm,
    solid,
)
from monai_vfx.vertebrae.training.anatomy.pelvis import LIMB_LAYERS
from monai_vfx.vertebrae.training.anatomy.skeleton import ARCH_LAYERS, BODY_LAYERS, Vertebra
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue
from monai_vfx.vertebrae.training.anatomy.trunk import Trunk

_THIN = ((Tissue.LIMB_CORTEX, 0.0), (Tissue.LIMB_MARROW, 1.8))
_SKIN = ((Tissue.SKIN, -2.0), (Tissue.SUBCUTANEOUS_FAT, 0.0))


def make_couch(rng: np.random.Generator, trunk: Trunk) -> list[Solid]:
    """Return a couch that the back rests on: flat or hollow, shell and foam."""
    middle = (trunk.z > np.percentile(trunk.z, 25)) & (trunk.z < np.percentile(trunk.z, 80))
    back = trunk.y - trunk.rows[:, 5] - trunk.fat * 1.1
    top = float(back[middle].min()) + rng.uniform(-4, 12)
    half = (rng.uniform(190, 260), rng.uniform(10, 45), 2000.0)
    centre = Frame(mm(rng.normal(0, 15), top - half[1], 0.0))
    layers = ((Tissue.COUCH_SHELL, 0.0), (Tissue.COUCH_FOAM, rng.uniform(1.2, 3.5)))
    couch = Blob(centre, half, float(rng.choice((3.0, 6.0, 10.0))))
    solids = [Solid((couch,), layers)]
    if rng.random() < 0.5:  # a mattress on a second shell
        second = Frame(centre.origin - (0.0, half[1] + rng.uniform(8, 40), 0.0))
        solids.append(Solid((Blob(second, (half[0], 6.0, 2000.0), 8.0),), layers))
    return solids


def make_shoulders(
    spine: Sequence[Vertebra], trunk: Trunk, paths: dict[tuple[str, int], Vector]
) -> list[Solid]:
    """Return clavicles, scapulae and humeral heads."""
    at = {body.name: body.frame.origin for body in spine}
    k = trunk.habitus.size
    solids = []
    for side in (1, -1):
        joint = at["T2"] + mm(side * 152.0, 8.0, 8.0) * k
        edge = paths["T1", side][-1] + mm(side * -6.0, 6.0, 10.0)
        bend = (edge + joint) / 2 + mm(0.0, 14.0 * k, 10.0 * k)
        clavicle = (
            Rod(edge, bend, 6.5 * k, 5.5 * k),
            Rod(bend, joint + mm(0, -8, 22), 5.5 * k),
        )
        solids.append(Solid(clavicle, _THIN, blend=3.0))
        angles = [at["T2"] + mm(side * x, y, z) * k for x, y, z in _SCAPULA]
        blade: list[Shape] = [Rod(angles[0], angles[1], 3.4), Rod(angles[0], angles[2], 4.5)]
        for share in np.linspace(0, 1, 16):
            low = angles[1] + share * (angles[2] - angles[1])
            blade.append(Rod(angles[0] + 0.5 * share * (angles[3] - angles[0]), low, 3.0))
        blade += [
            Rod(angles[3], joint + mm(side * -24.0 * k, -4, 0), 9.0 * k),
            Rod(angles[4], joint + mm(0, -16, 26), 6.0),
        ]
        solids.append(Solid(tuple(blade), _THIN, blend=2.0))
        solids.append(Solid((Blob(Frame(joint), (24 * k,) * 3),), LIMB_LAYERS))
    return solids


#: lateral, medial upper, lower angle, neck and spine of a scapula from T2, mm
_SCAPULA = (
    (118.0, -24.0, -4.0),
    *((62.0, -58.0, 10.0), (92.0, -58.0, -105.0)),
    *((126.0, -14.0, -4.0), (66.0, -66.0, 0.0)),
)


def make_arms(
    rng: np.random.Generator, trunk: Trunk, spine: Sequence[Vertebra], side: int
) -> list[Solid]:
    """Return an arm beside the trunk, ``side`` 1 for the patient's right."""
    at = {body.name: body.frame.origin for body in spine}
    k, fat = trunk.habitus.size, trunk.habitus.fat * 0.35
    shoulder, elbow = float(at["T2"][2]), float(at["L1"][2] + rng.uniform(-20, 40))
    hand = elbow - 290 * k
    z = np.array([hand, (hand + elbow) / 2, elbow, (elbow + shoulder) / 2, shoulder - 8])
    beside = [float(trunk.at(v)[2]) for v in z]
    wide = np.interp(z, trunk.z, trunk.rows[:, 3] + trunk.fat)
    gap = rng.uniform(0, 14)
    half = np.array([20.0, 32.0, 38.0, 42.0, 44.0]) * k
    reach = np.maximum(wide, np.max(beside)) + half + fat + gap
    reach[-1] = max(150.0 * k, reach[-1] - 45)
    x = np.interp(z, trunk.z, trunk.x) + side * reach
    bent = np.array([20.0, 5.0, -10.0, -5.0, 0.0]) * k
    y = np.interp(z, trunk.z, trunk.y) + bent + rng.normal(0, 8)
    solids = [
        Solid((Column(z, x, y, half + fat, half + fat),), _SKIN),
        solid(Tissue.MUSCLE, Column(z, x, y, half, half)),
    ]
    points = np.column_stack([x, y, z])
    upper = chain(points[:1:-1], 13 * k, 11 * k, 15 * k)
    solids.append(Solid(tuple(upper), LIMB_LAYERS))
    for dx in (-9.0, 9.0):
        start, end = points[2] + mm(dx * k, 0, -8), points[0] + mm(dx * k, 0, 0)
        solids.append(Solid((Rod(start, end, 8 * k, 7 * k),), LIMB_LAYERS))
    return solids


def make_head(rng: np.random.Generator, spine: Sequence[Vertebra], size: float) -> list[Solid]:
    """Return skull, brain, jaw and the two uppermost vertebrae."""
    top = spine[0]
    axis = [top.frame.world(0, -1.0, w) for w in (14.0, 36.0)]
    ring = top.frame.world(0, -10.0, 36.0)
    base = top.frame.world(0, 10.0, 48.0)
    centre = base + mm(0.0, 12.0, 72.0) * size
    skull = Blob(Frame(centre), (74 * size, 92 * size, 72 * size), 2.2)
    face = base + mm(0.0, 72.0, 8.0) * size
    jaw = [base + mm(s * 48.0, 30.0, -12.0) * size for s in (1, -1)]
    chin = base + mm(0.0, 92.0, -48.0) * size
    bone = ((Tissue.SKULL, 0.0),)
    arch: list[Shape] = []
    for s in (1, -1):
        flank = ring + mm(s * 22.0, 2.0, 0.0)
        arch += chain([axis[1] + mm(0, 6, 0), flank, ring + mm(0.0, -24.0, 0.0)], 5.0)
        bends = ((s * 6.0, -8.0, 0.0), (s * 8.0, -22.0, 0.0), (0.0, -36.0, -6.0))
        arch += chain([axis[0] + mm(*bend) for bend in bends], 5.0)
    soft = (
        Blob(Frame(centre), (82 * size, 100 * size, 80 * size), 2.2),
        Blob(Frame(face), (62 * size, 44 * size, 66 * size)),
    )
    airway = Rod(face + mm(0, -14, 6), top.frame.world(0, 26, 0), 9.0)
    cover = ((Tissue.SKIN, -3.0), (Tissue.SUBCUTANEOUS_FAT, -1.0), (Tissue.MUSCLE, 2.0))
    return [
        Solid(soft, cover, blend=15.0),
        solid(Tissue.AIRWAY, airway),
        Solid((skull,), (*bone, (Tissue.BRAIN, rng.uniform(4, 8)))),
        Solid(tuple(Rod(j, chin, 8.0 * size) for j in jaw), bone),
        Solid(tuple(chain(axis, 8.0 * size, 5.5 * size)), BODY_LAYERS, level=2),
        Solid(tuple(arch), ARCH_LAYERS),
    ]


def make_breasts(rng: np.random.Generator, spine: Sequence[Vertebra], trunk: Trunk) -> list[Solid]:
    """Return breasts on the front of the chest."""
    height = next(body for body in spine if body.name == "T7").frame.origin[2]
    x, y, half, _, _ = trunk.at(height)
    front = float(np.interp(height, trunk.z, trunk.rows[:, 4] + trunk.fat))
    big = rng.uniform(0.5, 1.5) * trunk.habitus.size
    centres = [mm(x + s * half * 0.62, y + front - 14, height) for s in (1, -1)]
    parts = tuple(Blob(Frame(centre), (58 * big, 34 * big, 58 * big)) for centre in centres)
    outer = frozenset((Tissue.AIR, Tissue.SKIN, Tissue.SUBCUTANEOUS_FAT))
    return [Solid(parts, (*_SKIN, (Tissue.BREAST, 9.0)), over=outer)]
