"""Lungs, heart, vessels, and the organs of abdomen and pelvis as solids. RAS mm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from monai_vfx.vertebrae.training.anatomy.label_map import (
    Blob,
    Frame,
    Rod,
    Shape,
    Solid,
    Vector,
    chain,
    mm,
    solid,
)
from monai_vfx.vertebrae.training.anatomy.skeleton import Vertebra, rotation
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue
from monai_vfx.vertebrae.training.anatomy.trunk import Trunk

_FAT = frozenset((Tissue.VISCERAL_FAT,))
_LUNG = frozenset((Tissue.LUNG,))
_CHEST = frozenset((Tissue.VISCERAL_FAT, Tissue.LUNG))


def make_chest(rng: np.random.Generator, spine: Sequence[Vertebra], trunk: Trunk) -> list[Solid]:
    """Return lungs, mediastinum, heart, airways and the space under the diaphragm."""
    at = {body.name: body.frame.origin for body in spine}
    size = trunk.habitus.size
    thoracic = [body for body in spine if body.name.startswith("T")]
    recess = float(thoracic[-1].frame.origin[2] - 25 * rng.uniform(0.2, 1.6))
    dome = float(at["T10"][2] + rng.uniform(-15, 30) * size)
    apex = float(at["T1"][2] + 4)
    inner = trunk.between(trunk.column(0, -1.5), recess, apex)
    solids = [solid(Tissue.LUNG, inner)]
    x, y, half, front, back = trunk.at(dome - 20)
    depth, centre = (front + back) / 2, y + (front - back) / 2
    domes: list[Shape] = []
    for side, height in ((1, dome), (-1, dome - rng.uniform(0, 20)), (0, dome - 22)):
        reach = (0.53 if side else 0.6) * half
        middle = mm(x + side * 0.46 * half, centre + 0.10 * depth, recess - 30)
        domes.append(Blob(Frame(middle), (reach, depth * 1.05, height - recess + 30), 2.6))
    solids.append(
        Solid(tuple(domes), ((Tissue.MUSCLE, 0.0), (Tissue.VISCERAL_FAT, 2.5)), over=_LUNG)
    )
    # The mediastinum: from the spine to the sternum, narrow behind, wide where the heart lies.
    middle_line: list[Shape] = []
    for body in thoracic[:10]:
        x, y, half, front, _ = trunk.at(body.frame.origin[2])
        start = body.frame.world(0, body.half_depth * 0.3, 0)
        end = mm(x, y + front - 8, body.frame.origin[2] - 8)
        middle_line.append(Rod(start, end, min(0.4 * half, 20 * size), min(0.3 * half, 14 * size)))
    solids.append(solid(Tissue.VISCERAL_FAT, *middle_line, over=_LUNG, blend=6.0))
    x, y, half, front, _ = trunk.at(at["T8"][2])
    tilt = rotation(0.0, 0.5, 0.4)
    heart = mm(x - 22 * size, y + front * 0.58, dome + 38 * size)
    chambers: list[Shape] = [Blob(Frame(heart, tilt), (58 * size, 44 * size, 46 * size))]
    x, y, half, front, _ = trunk.at(at["T5"][2])
    for dx, dy, r in ((8, 0.55, 16), (-12, 0.62, 14), (22, 0.5, 10)):
        top = mm(x + dx * size, y + front * dy, at["T4"][2] - 8)
        chambers.append(Rod(heart + mm(dx * 0.5, 0, 10), top, r * size))
    solids.append(solid(Tissue.BLOOD, *chambers, over=_CHEST, blend=6.0))
    return [*solids, *_airways(rng, thoracic, size)]


def _airways(rng: np.random.Generator, thoracic: Sequence[Vertebra], size: float) -> list[Solid]:
    path = [body.frame.world(rng.normal(2, 2), body.half_depth + 17 * size, 0) for body in thoracic]
    tubes = chain(path, 8.5 * size)
    fork = path[4]
    vessels: list[Shape] = []
    for side in (1, -1):
        hilum = fork + mm(side * 38, 4, -28) * size
        tubes.append(Rod(fork, hilum, 6.5 * size, 4.5 * size))
        for _ in range(14):  # pulmonary vessels fan out from the hilum
            way = rng.normal(0, 1, 3) * (0.8, 1, 1) + mm(side * 0.9, 0, 0)
            reach = rng.uniform(35, 75) * size
            tip = hilum + way / np.linalg.norm(way) * reach
            vessels.append(Rod(hilum, tip, 5.0 * size, 1.0))
    gullet = [body.frame.world(-3, body.half_depth + 8 * size, 0) for body in thoracic[:10]]
    return [
        solid(Tissue.BLOOD, *vessels, over=_CHEST),
        solid(Tissue.OESOPHAGUS, *chain(gullet, 6.0 * size)),
        Solid(tuple(tubes), ((Tissue.MUSCLE, -2.0), (Tissue.AIRWAY, 0.0))),
    ]


def make_vessels(
    rng: np.random.Generator, spine: Sequence[Vertebra], pelvis: Frame, size: float
) -> list[Solid]:
    """Return the aorta, the inferior vena cava and the iliac vessels."""
    names = [body.name for body in spine]
    fourth = len(names) - 2
    wide = rng.uniform(0.8, 1.35) * size
    bend = rng.normal(0, 4, 2)
    aorta, cava = [], []
    for i in range(names.index("T4"), fourth + 1):
        body, along = spine[i], i / fourth
        side = -14 * (1 - along) ** 0.5 - 6 + bend[0] * np.sin(5 * along)
        aorta.append(body.frame.world(side, body.half_depth + 11 * size, 0))
        if i >= names.index("T10"):
            cava.append(body.frame.world(17 + bend[1], body.half_depth + 12 * size, 0))
    first = aorta[0]
    bends = ((0, 0, 0), (2, 12, 16), (10, 38, 18), (20, 52, 2), (22, 55, -30))
    red = chain([first + mm(*bend) for bend in bends], 12 * wide)
    red += chain(aorta, 11.5 * wide, 8.5 * wide)
    blue = chain(cava, 12 * size, 11 * size)
    for side in (1, -1):
        way = [
            pelvis.world(side * x * size, y * size, z * size)
            for x, y, z in ((28, 38, 8), (50, 32, -22), (70, 62, -66), (84, 76, -102))
        ]
        red += chain([aorta[-1], *way], 5.5 * wide, 4.5 * wide)
        behind = [point + mm(0, -10, -3) for point in way]
        blue += chain([cava[-1], *behind], 8 * size, 6.5 * size)
    return [solid(Tissue.BLOOD, *blue), solid(Tissue.AORTA, *red)]


def make_abdomen(
    rng: np.random.Generator, spine: Sequence[Vertebra], pelvis: Frame, trunk: Trunk
) -> list[Solid]:
    """Return liver, spleen, kidneys, pancreas, stomach, bowel and the organs of the pelvis."""
    at = {body.name: body.frame.origin for body in spine}
    at["rib12"] = next(b for b in spine[::-1] if b.name.startswith("T")).frame.origin
    size = trunk.habitus.size
    solids = []

    def organ(
        tissue: Tissue,
        level: str,
        place: tuple[float, float, float],
        half: tuple[float, float, float],
    ) -> Frame:
        """Place an organ: right (share of the half width), front (share) and up (mm)."""
        z = at[level][2] + (place[2] + rng.normal(0, 6.0)) * size
        x, y, wide, front, back = trunk.at(z)
        reach = front if place[1] > 0 else back
        middle = mm(x + place[0] * wide, y + place[1] * reach, z)
        turn, lean = rng.normal(0, 0.15, 2)
        a, b, c = (h * size * rng.normal(1, 0.1) for h in half)
        frame = Frame(middle, rotation(0.0, lean, turn))
        shape = Blob(frame, (a, b, c), 2.2, 0.03, rng.uniform(0, 9))
        solids.append(solid(tissue, shape, over=_FAT))
        return frame

    right, up = rotation(0.0, 0.25, 0.0), at["rib12"][2]
    x, y, wide, front, back = trunk.at(up)
    depth = (front + back) / 2
    first = Frame(mm(x + 0.52 * wide, y + 0.2 * front, up + 18 * size), right)
    second = Frame(mm(x + 0.05 * wide, y + 0.62 * front, up + 30 * size), right)
    lobes = (
        Blob(first, (0.52 * wide, depth * 0.9, 78 * size), 2.4, 0.03, rng.uniform(0, 9)),
        Blob(second, (0.6 * wide, 38 * size, 42 * size), 2.2),
    )
    solids.append(solid(Tissue.LIVER, *lobes, over=_FAT, blend=10.0))
    for side in (1, -1):
        drop = 8 if side > 0 else 0
        kidney = organ(Tissue.KIDNEY, "L1", (side * 0.52, -0.30, -16 - drop), (27, 25, 53))
        sinus = Blob(kidney.moved(-side * 8 * size, 6 * size, 0), (14 * size, 10 * size, 26 * size))
        solids.append(Solid((sinus,), ((Tissue.VISCERAL_FAT, 0.0), (Tissue.KIDNEY_PELVIS, 5.0))))
    organ(Tissue.GALLBLADDER, "L1", (0.42, 0.55, 8), (15, 17, 30))
    organ(Tissue.SPLEEN, "rib12", (-0.80, -0.35, 14), (24, 40, 50))
    organ(Tissue.PANCREAS, "L1", (-0.10, 0.34, 12), (62, 13, 14))
    return [*solids, *_hollow(rng, at, pelvis, trunk)]


def _hollow(
    rng: np.random.Generator, at: dict[str, Vector], pelvis: Frame, trunk: Trunk
) -> list[Solid]:
    """Return stomach, colon, small bowel, bladder and pelvic organs."""
    size = trunk.habitus.size

    def place(level: str, right: float, front: float, up: float) -> Vector:
        z = float(at[level][2] + up * size)
        x, y, wide, forward, back = trunk.at(z)
        return mm(x + right * wide, y + front * (forward if front > 0 else back), z)

    filled = (38 * size, 30 * size, rng.uniform(18, 50) * size)
    bladder = Blob(Frame(pelvis.world(0, 52 * size, -92 * size)), filled)
    behind = Frame(pelvis.world(rng.normal(0, 6), 14 * size, -82 * size))
    organ = Blob(behind, (32 * size, 22 * size, 28 * size), bumps=0.05)
    low = ((-22, -70), (-26, -95), (-8, -130))
    rectum = chain([pelvis.world(0, y * size, z * size) for y, z in low], 15 * size)
    solids = [
        solid(Tissue.PELVIC_ORGAN, organ, over=_FAT),
        Solid((bladder,), ((Tissue.BOWEL_WALL, -2.5), (Tissue.BLADDER, 0.0)), over=_FAT),
        Solid(tuple(rectum), ((Tissue.BOWEL_WALL, 0.0), (_filling(rng), 3.0)), over=_FAT),
    ]
    stomach = [place("rib12", -0.5, 0.25, 45), place("rib12", -0.62, 0.45, 15)]
    stomach += [place("L1", *to) for to in ((-0.45, 0.62, 5), (-0.05, 0.6, -8), (0.2, 0.5, 2))]
    full = rng.uniform(0.5, 1.2) * size
    layers = ((Tissue.STOMACH_WALL, 0.0), (Tissue.BOWEL_CONTENT, 4.0))
    rods = chain(stomach, *(radius * full for radius in (36, 38, 30, 20, 12)))
    solids.append(Solid(tuple(rods), layers, over=_FAT, blend=8.0))
    up = mm(0.0, 14.0 * full, 0.0)
    bubble = [
        Rod(a + up, b + up, radius * full * 0.72)
        for a, b, radius in zip(stomach, stomach[1:4], (36, 38, 30), strict=False)
    ]
    solids.append(solid(Tissue.GAS, *bubble, over=frozenset((Tissue.BOWEL_CONTENT,))))
    return solids + _bowels(rng, place, float(pelvis.origin[2] - at["L3"][2]), size)


def _bowels(
    rng: np.random.Generator, place: Callable[..., Vector], low: float, size: float
) -> list[Solid]:
    """Return colon and small bowel; the pelvis lies at ``low`` mm from L3."""
    colon = (
        ((0.78, -0.1, low + 10), (0.82, -0.2, -20), (0.82, -0.2, 20), (0.76, 0.2, 45)),
        ((0.76, 0.2, 45), (0.4, 0.75, 25), (0.0, 0.82, 5), (-0.4, 0.75, 30), (-0.78, 0.1, 65)),
        ((-0.78, 0.1, 65), (-0.86, -0.3, 20), (-0.85, -0.25, -20), (-0.8, 0.0, low + 15)),
        (
            (-0.8, 0.0, low + 15),
            (-0.55, 0.3, low - 25),
            (-0.1, 0.4, low - 40),
            (0.0, -0.1, low - 60),
        ),
    )
    solids = []
    for points, radius in zip(colon, (23, 19, 15, 14), strict=True):
        path = np.array([place("L3", *point) for point in points])
        path += rng.normal(0, 6, path.shape)
        solids.append(_bowel(rng, path, radius * rng.uniform(0.6, 1.35) * size, _filling(rng)))
    fillings = (Tissue.BOWEL_CONTENT, Tissue.BOWEL_WALL, Tissue.GAS)
    for _ in range(26):
        right, front = rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.85)
        start = place("L3", right, front, rng.uniform(low - 40, 25))
        way = np.cumsum(rng.normal(0, 16, (5, 3)) * size, axis=0)
        filling = fillings[rng.choice(3, p=(0.6, 0.25, 0.15))]
        solids.append(_bowel(rng, start + way, rng.uniform(8, 14) * size, filling))
    return solids


def _bowel(rng: np.random.Generator, path: Vector, radius: float, filling: Tissue) -> Solid:
    rods = chain(path, *(radius * rng.uniform(0.8, 1.2) for _ in path))
    return Solid(tuple(rods), ((Tissue.BOWEL_WALL, 0.0), (filling, 2.2)), over=_FAT, blend=3.0)


def _filling(rng: np.random.Generator) -> Tissue:
    return (Tissue.FAECES, Tissue.GAS, Tissue.BOWEL_CONTENT)[rng.choice(3, p=(0.5, 0.35, 0.15))]
