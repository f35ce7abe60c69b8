"""Diseases of the trunk's soft tissues: fluid, cysts, masses and calcifications. RAS mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_vfx.vertebrae.training.anatomy.label_map import Blob, Frame, Shape, Solid, Vector
from monai_vfx.vertebrae.training.anatomy.skeleton import Vertebra
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue
from monai_vfx.vertebrae.training.anatomy.trunk import Trunk

_FAT = frozenset((Tissue.VISCERAL_FAT,))
_ORGANS = frozenset(
    (
        *(Tissue.VISCERAL_FAT, Tissue.BOWEL_WALL, Tissue.BOWEL_CONTENT, Tissue.GAS),
        *(Tissue.FAECES, Tissue.PELVIC_ORGAN, Tissue.BLADDER, Tissue.PANCREAS),
        Tissue.STOMACH_WALL,
    )
)
_SOLID_ORGANS = frozenset((Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY))


def make_fluid(rng: np.random.Generator, spine: Sequence[Vertebra], trunk: Trunk) -> list[Solid]:
    """Return ascites and pleural fluid, each in some persons; to be painted after the organs."""
    at = {body.name: body.frame.origin for body in spine}
    solids = []
    if rng.random() < 0.06:
        low, high = float(trunk.z[0]), float(at["T10"][2])
        cavity = trunk.between(trunk.column(0, 0.0), low, high)
        x, y, half, front, _ = (float(v) for v in trunk.at(float(at["L3"][2])))
        share = float(rng.uniform(0.5, 0.95))
        middle = Frame(np.array([x, y + 0.4 * front, float(at["L3"][2])]))
        dry = Blob(middle, (half * share, front * share, 170.0))
        retro = Blob(Frame(np.array([x, y - 40.0, 0.0])), (half * 1.2, 75.0, 400.0), 4.0)
        fluid = ((Tissue.ASCITES, 0.0),)
        solids.append(Solid((cavity,), fluid, minus=(dry, retro), over=_FAT))
    lung = frozenset((Tissue.LUNG,))
    for side in (1, -1):
        if rng.random() < 0.07:
            x, y, half, _, back = (float(v) for v in trunk.at(float(at["T10"][2])))
            depth = float(rng.uniform(15, 80))
            place = np.array(
                [x + side * half * 0.6, y - back - 60 + depth, float(at["T10"][2]) - 20]
            )
            pool = Blob(Frame(place), (half * 0.7, 60.0, float(rng.uniform(60, 130))), 3.0)
            solids.append(Solid((pool,), ((Tissue.PLEURAL_FLUID, 0.0),), over=lung))
    return solids


def make_masses(
    rng: np.random.Generator, spine: Sequence[Vertebra], pelvis: Frame, trunk: Trunk
) -> list[Solid]:
    """Return cysts, a large cystic mass, nodes and tumours, each in some persons."""
    at = {body.name: body.frame.origin for body in spine}
    k = trunk.habitus.size
    solids = []
    if rng.random() < 0.10:
        radius = float(rng.uniform(25, 115))
        centre = pelvis.world(rng.normal(0, 25), 62 * k, -70 * k + radius * 0.9)
        a, b, c = (float(r) for r in radius * rng.uniform(0.75, 1.15, 3))
        mass = Blob(Frame(centre), (a, b, c), 2.1, 0.06, rng.uniform(0, 9))
        layers = ((Tissue.SOLID_MASS, 0.0), (Tissue.CYST, float(rng.uniform(1.5, 6.0))))
        solids.append(Solid((mass,), layers, over=_ORGANS))
    parts: list[Shape] = []
    if rng.random() < 0.10:  # nodes along the great vessels
        for _ in range(int(rng.integers(3, 14))):
            body = spine[-int(rng.integers(1, 7))]
            place = body.frame.world(rng.normal(0, 22), body.half_depth + rng.uniform(4, 28), 0)
            parts.append(_ball(rng, place, 5.0, 16.0))
        solids.append(Solid(tuple(parts), ((Tissue.SOLID_MASS, 0.0),), over=_FAT, blend=2.0))
    cysts: list[Shape] = []
    if rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 7))):
            x, y, half, front, _ = (float(v) for v in trunk.at(float(at["L1"][2])))
            spread = np.array([rng.choice((-1, 1)) * 0.55 * half, 0.05 * front, at["L1"][2] + 10])
            place = np.array([x, y, 0.0]) + spread + rng.normal(0, 30, 3)
            cysts.append(_ball(rng, place, 4.0, 28.0))
        solids.append(Solid(tuple(cysts), ((Tissue.CYST, 0.0),), over=_SOLID_ORGANS | _FAT))
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
        _ball(
            rng, np.array([rng.normal(0, 70), rng.uniform(-10, 80), rng.normal(30, 60)]), 1.5, 7.0
        )
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
