"""Random bodies: anatomical variants, build, posture, and the solids that make up a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from monai_vfx.simulation.label_map import AnatomyMap, Frame, Painter, Solid, Vector
from monai_vfx.simulation.muscles import make_canal, make_guard, make_muscles, make_wall
from monai_vfx.simulation.pelvis import make_pelvis
from monai_vfx.simulation.skeleton import (
    INTACT,
    LEVEL_NUMBERS,
    Body,
    Collapse,
    Vertebra,
    arch_parts,
    body_centre,
    disc_between,
    expected_sizes,
    level_names,
    make_sacrum,
    rotation,
    sacral_tilt,
    sacrum_parts,
    stack,
)
from monai_vfx.simulation.thorax import make_ribs, make_sternum, path_length
from monai_vfx.simulation.tissues import Tissue
from monai_vfx.simulation.trunk import Habitus, make_trunk
from monai_vfx.simulation.viscera import make_abdomen, make_chest, make_vessels

_BODY_LAYERS = ((Tissue.BODY_CORTEX, 0.0), (Tissue.BODY_TRABECULAR, 1.5))
_ARCH_LAYERS = ((Tissue.POSTERIOR_CORTEX, 0.0), (Tissue.POSTERIOR_TRABECULAR, 1.8))
_SACRUM_LAYERS = ((Tissue.SACRUM_CORTEX, 0.0), (Tissue.SACRUM_TRABECULAR, 1.5))
_HIP = frozenset((Tissue.PELVIS_CORTEX, Tissue.PELVIS_MARROW))


@dataclass(frozen=True, eq=False)
class BodyPlan:
    """A person without a grid: the facts, and the solids in the order they are painted.

    Args:
        levels: names of the vertebrae, cranial to caudal.
        centres: (n, 3) centroids of the bodies, RAS mm; the third lumbar body lies about at 0.
        axes: (n, 3) unit vectors, a body's direction from its lower to its upper end, RAS.
        sizes: (n, 3) height, depth and width of the bodies before any fracture, mm.
        ribs: level → lengths of its ribs in mm (right, left), 0 for none.
        lumbar: count of lumbar vertebrae; ``thoracic`` likewise.
        fractured: level → kind of fracture.
        variants: names of further variants and findings.
        scoliosis: largest coronal tilt between two levels in degrees (Cobb's angle).
        sacrum: (6, 3) centres of S1-S5 and the coccyx, RAS mm.
        solids: in painting order.
    """

    levels: tuple[str, ...]
    centres: Vector
    axes: Vector
    sizes: Vector
    ribs: dict[str, tuple[float, float]]
    lumbar: int
    thoracic: int
    fractured: dict[str, str]
    variants: frozenset[str]
    scoliosis: float
    sacrum: Vector
    solids: tuple[Solid, ...] = field(repr=False)


def draw_body_plan(rng: np.random.Generator, *, variants: bool = True) -> BodyPlan:
    """Draw a person.

    Args:
        rng: source of all chance.
        variants: also unusual counts of vertebrae and ribs; otherwise twelve thoracic vertebrae
            with ribs and five lumbar ones without.
    """
    thoracic, lumbar = _draw_counts(rng) if variants else (12, 5)
    size = float(np.clip(rng.normal(1.0, 0.06), 0.82, 1.18))
    breadth = float(rng.normal(1.0, 0.04))
    lordosis = float(np.clip(rng.normal(1.0, 0.25), 0.3, 1.6))
    kyphosis = float(np.clip(rng.normal(1.1, 0.35), 0.2, 2.2))
    fractured: dict[str, str] = {}
    spine = _draw_spine(rng, thoracic, lumbar, size, lordosis, kyphosis, fractured)
    last = spine[-1]
    disc = last.size.disc
    sacrum = make_sacrum(last, sacral_tilt(lordosis) + rng.normal(0, 3), disc, size)
    habitus = Habitus(
        size=size,
        belly=float(np.clip(rng.normal(0.05, 0.22), -0.35, 0.8)),
        fat=float(np.clip(np.exp(rng.normal(2.9, 0.7)), 2.0, 85.0)),
        flatness=float(rng.normal(1.0, 0.08)),
        wall=float(np.clip(rng.normal(1.0, 0.2), 0.5, 1.6)),
    )
    trunk = make_trunk(spine, sacrum, habitus, float(rng.uniform(2.15, 2.8)))
    lengths = _draw_ribs(rng, thoracic, size)
    slope, thick = float(rng.normal(1.0, 0.15)), float(rng.normal(1.0, 0.1))
    ribs, paths = make_ribs(spine, lengths, trunk, slope, thick)
    turn = np.deg2rad((sacrum[0].size.tilt - sacral_tilt(1.0)) * 0.7)
    pelvis = Frame(sacrum[0].frame.origin, rotation(turn, 0.0, 0.0))
    hips = float(rng.normal(1.0, 0.05))
    bulk = (
        float(np.clip(rng.normal(0.95, 0.15), 0.5, 1.3)),
        float(np.clip(rng.normal(0.95, 0.2), 0.4, 1.4)),
    )
    solids = [
        *make_wall(trunk, sacrum[0].frame.origin),
        *make_chest(rng, spine, trunk),
        make_guard(spine, sacrum),
        *make_abdomen(rng, spine, pelvis, trunk),
        *make_vessels(rng, spine, pelvis, size),
        *make_muscles(spine, sacrum, pelvis, bulk, (size, hips)),
        *make_sternum(paths, trunk, size),
        *make_pelvis(pelvis, size, hips),
        *ribs,
        *_draw_bones(rng, spine, sacrum),
    ]
    measured = {name: [0.0, 0.0] for name in lengths}
    for (name, side), path in paths.items():
        measured[name][0 if side > 0 else 1] = path_length(path)
    coronal = [body.coronal for body in spine]
    return BodyPlan(
        levels=tuple(body.name for body in spine),
        centres=np.array([body_centre(body) for body in spine]),
        axes=np.array([body.frame.axes[:, 2] for body in spine]),
        sizes=np.array([(b.size.height, b.size.depth, b.size.width) for b in spine]),
        ribs={name: (right, left) for name, (right, left) in measured.items()},
        lumbar=lumbar,
        thoracic=thoracic,
        fractured=fractured,
        variants=frozenset(),
        scoliosis=float(np.ptp(coronal)),
        sacrum=np.array([segment.frame.origin for segment in sacrum]),
        solids=tuple(solids),
    )


def paint_label_map(
    plan: BodyPlan,
    low_mm: Sequence[float],
    high_mm: Sequence[float],
    spacing_mm: Sequence[float] = (2.0, 2.0, 1.5),
) -> AnatomyMap:
    """Paint what touches a box.

    Args:
        plan: the person.
        low_mm: (3,) lowest corner of the box, RAS mm.
        high_mm: (3,) highest corner.
        spacing_mm: (3,) of the voxels.

    Raises:
        ValueError: if the box is not a volume.
    """
    painter = Painter(low_mm, high_mm, spacing_mm)
    for solid in plan.solids:
        painter.paint(solid)
    return AnatomyMap(painter.tissues, painter.vertebrae, painter.affine, plan)


def _draw_counts(rng: np.random.Generator) -> tuple[int, int]:
    """Return the counts of rib-bearing and lumbar vertebrae."""
    counts = ((12, 5), (13, 5), (13, 4), (12, 6), (12, 4), (11, 5), (11, 6))
    share = (0.83, 0.015, 0.015, 0.05, 0.05, 0.02, 0.02)
    return counts[int(rng.choice(len(counts), p=share))]


def _draw_spine(
    rng: np.random.Generator,
    thoracic: int,
    lumbar: int,
    size: float,
    lordosis: float,
    kyphosis: float,
    fractured: dict[str, str],
) -> list[Vertebra]:
    """Return the vertebrae from C3, placed; fractures are noted in ``fractured``."""
    names = level_names(thoracic, lumbar)
    expected = expected_sizes(thoracic, lumbar)
    span = size * float(rng.normal(1.0, 0.04))
    tall = size * float(rng.normal(1.0, 0.03))
    depression, flare = float(rng.uniform(0.4, 2.2)), float(rng.uniform(0.05, 0.2))
    worn = float(rng.uniform(0.0, 0.5))
    place = np.arange(len(names)) - len(names) + 1.0
    cobb = float(abs(rng.normal(0, 6.0)) if rng.random() < 0.8 else rng.uniform(10, 40))
    period, shift = rng.uniform(9, 16), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * place / period + shift) * np.exp(-((place + 5) ** 2) / 120)
    bend = cobb / 2 * wave
    turn = (
        0.4 * cobb * np.cos(2 * np.pi * place / period + shift) * np.exp(-((place + 5) ** 2) / 120)
    )
    pieces = []
    for i, name in enumerate(names):
        base = expected[name]
        lumbar_part = name.startswith("L") or name in ("T11", "T12", "T13")
        tilt = base.tilt * (lordosis if lumbar_part else kyphosis if base.tilt < 0 else 1.0)
        new = replace(
            base,
            height=base.height * tall * rng.normal(1, 0.02),
            wedge=base.wedge * tall + rng.normal(0, 0.6),
            depth=base.depth * span * rng.normal(1, 0.015),
            width=base.width * span * rng.normal(1, 0.015),
            disc=max(1.0, base.disc * tall * (1 - worn * rng.uniform(0, 1.2))),
            process=base.process * span * rng.normal(1, 0.06),
            tilt=tilt + rng.normal(0, 1.2),
        )
        collapse = INTACT
        axes = rotation(*np.deg2rad((new.tilt, bend[i], turn[i])))
        frame = Frame(np.zeros(3), axes)
        pieces.append(
            Vertebra(name, frame, new, depression, flare, span, collapse, bend[i], turn[i])
        )
    return stack(pieces)


def _draw_ribs(
    rng: np.random.Generator, thoracic: int, size: float
) -> dict[str, tuple[float | None, float | None]]:
    lengths: dict[str, tuple[float | None, float | None]] = {}
    for number in range(1, thoracic + 1):
        name = f"T{number}"
        if number < thoracic - 1:
            lengths[name] = (None, None)
            continue
        usual, spread = (105.0, 30.0) if number == thoracic else (195.0, 25.0)
        if number == 13:
            usual, spread = 55.0, 20.0
        both = rng.normal(usual, spread)
        lowest = 20.0 if number == thoracic else 100.0
        right, left = (float(max(lowest, both + rng.normal(0, 10)) * size) for _ in range(2))
        lengths[name] = (right, left)
    return lengths


def _draw_bones(
    rng: np.random.Generator, spine: list[Vertebra], sacrum: list[Vertebra]
) -> list[Solid]:
    """Return discs, arches, canal, sacrum and bodies."""
    solids = []
    for upper, lower in zip(spine, [*spine[1:], sacrum[0]], strict=True):
        disc = disc_between(upper, lower, float(rng.uniform(0.98, 1.1)))
        solids.append(Solid((disc,), ((Tissue.DISC, 0.0),)))
    parts, cuts = sacrum_parts(sacrum)
    joint = Solid(parts, ((Tissue.JOINT_CARTILAGE, -1.8),), over=_HIP)
    solids += [joint, Solid(parts, _SACRUM_LAYERS, minus=cuts, blend=5.0)]
    solids += [Solid(arch_parts(body), _ARCH_LAYERS, blend=1.5) for body in spine]
    solids += make_canal(spine, sacrum, float(rng.uniform(0.75, 1.05)))
    for body in spine:
        level = LEVEL_NUMBERS[body.name]
        solids.append(Solid((Body(body),), _BODY_LAYERS, level=level))
    return solids
