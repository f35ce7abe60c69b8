"""Random bodies: anatomical variants, build, posture, and the solids that make up a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from monai_vfx.core.vertebra_sizes import LevelSize
from monai_vfx.vertebrae.training.anatomy import findings, muscles, surroundings, thorax, viscera
from monai_vfx.vertebrae.training.anatomy.label_map import (
    AnatomyMap,
    Corner,
    Frame,
    Painter,
    Solid,
    Vector,
    mm,
    solid,
)
from monai_vfx.vertebrae.training.anatomy.pelvis import (
    make_pelvis,
    make_sacrum,
    sacral_tilt,
    sacralised_parts,
    sacrum_parts,
)
from monai_vfx.vertebrae.training.anatomy.skeleton import (
    ARCH_LAYERS,
    BODY_LAYERS,
    INTACT,
    LEVEL_NUMBERS,
    Body,
    Vertebra,
    arch_parts,
    body_centre,
    disc_between,
    expected_sizes,
    level_names,
    rotation,
    stack,
)
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue
from monai_vfx.vertebrae.training.anatomy.trunk import Habitus, Trunk, make_trunk

_SACRUM_LAYERS = ((Tissue.SACRUM_CORTEX, 0.0), (Tissue.SACRUM_TRABECULAR, 1.5))
_HIP = frozenset((Tissue.PELVIS_CORTEX, Tissue.PELVIS_MARROW))


@dataclass(frozen=True, eq=False)
class BodyPlan:
    """A person without a grid: the facts, and the solids in the order they are painted."""

    levels: tuple[str, ...]  # names of the vertebrae, cranial to caudal
    centres: Vector  # (n, 3) centroids of the bodies, RAS mm; the third lumbar body lies about at 0
    axes: Vector  # (n, 3) unit vectors, a body's direction from its lower to its upper end, RAS
    sizes: Vector  # (n, 3) height, depth and width of the bodies before any fracture, mm
    # level → lengths of its ribs in mm (right, left), 0 for none
    ribs: dict[str, tuple[float, float]]
    lumbar: int  # count of lumbar vertebrae; `thoracic` likewise
    thoracic: int
    fractured: dict[str, str]  # level → kind of fracture
    variants: frozenset[str]  # names of further variants and findings
    scoliosis: float  # largest coronal tilt between two levels in degrees (Cobb's angle)
    sacrum: Vector  # (6, 3) centres of S1-S5 and the coccyx, RAS mm
    solids: tuple[Solid, ...] = field(repr=False)  # in painting order


def draw_body_plan(rng: np.random.Generator, *, variants: bool = True) -> BodyPlan:
    """Draw a person.

    With ``variants`` also unusual counts of vertebrae and ribs, transitional vertebrae and lumbar
    ribs; otherwise twelve thoracic vertebrae with ribs and five lumbar ones without.
    """
    thoracic, lumbar = draw_counts(rng) if variants else (12, 5)
    found = findings.draw_findings(rng, level_names(thoracic, lumbar))
    if not variants:
        found.variants -= {"sacralised", "lumbarised"}
    size = float(np.clip(rng.normal(1.0, 0.06), 0.82, 1.18))
    lordosis = float(np.clip(rng.normal(1.0, 0.25), 0.35, 1.45))
    spine = _draw_spine(rng, (thoracic, lumbar), size, lordosis, found)
    sacrum = _draw_sacrum(rng, spine[-1], lordosis, size, found)
    habitus = Habitus(
        size=size,
        belly=float(np.clip(rng.normal(0.05, 0.22), -0.35, 0.8)),
        fat=float(np.clip(np.exp(rng.normal(2.9, 0.7)), 2.0, 85.0)),
        flatness=rng.normal(1.0, 0.08),
        wall=float(np.clip(rng.normal(1.0, 0.2), 0.5, 1.6)),
    )
    trunk = make_trunk(spine, sacrum, habitus, rng.uniform(2.15, 2.8))
    lengths = draw_ribs(rng, thoracic, size, variants and (thoracic, lumbar) == (12, 5))
    ribs, paths = thorax.make_ribs(
        spine, lengths, trunk, rng.normal(1.0, 0.15), rng.normal(1.0, 0.1)
    )
    solids = (
        *_draw_outside(rng, spine, trunk, paths),
        *_draw_inside(rng, spine, sacrum, trunk),
        *thorax.make_sternum(paths, trunk, size),
        *ribs,
        *_draw_bones(rng, spine, sacrum, found),
    )
    measured = {name: [0.0, 0.0] for name in lengths}
    for (name, side), path in paths.items():
        measured[name][0 if side > 0 else 1] = thorax.path_length(path)
    return BodyPlan(
        levels=tuple(body.name for body in spine),
        centres=np.array([body_centre(body) for body in spine]),
        axes=np.array([body.frame.axes[:, 2] for body in spine]),
        sizes=np.array([(b.size.height, b.size.depth, b.size.width) for b in spine]),
        ribs={name: (right, left) for name, (right, left) in measured.items()},
        lumbar=lumbar,
        thoracic=thoracic,
        fractured=dict(found.kinds),
        variants=frozenset(found.variants),
        scoliosis=float(np.ptp([body.coronal for body in spine])),
        sacrum=np.array([segment.frame.origin for segment in sacrum]),
        solids=solids,
    )


def paint_label_map(
    plan: BodyPlan,
    low_mm: Corner,
    high_mm: Corner,
    spacing_mm: Sequence[float] = (2.0, 2.0, 1.5),
) -> AnatomyMap:
    """Paint what touches a box, whose corners are in RAS mm."""
    painter = Painter(low_mm, high_mm, spacing_mm)
    for each in plan.solids:
        painter.paint(each)
    return AnatomyMap(painter.tissues, painter.vertebrae, painter.affine, plan)


def draw_counts(rng: np.random.Generator) -> tuple[int, int]:
    """Return the counts of rib-bearing and lumbar vertebrae: 83 % have twelve and five."""
    counts = ((12, 5), (13, 5), (13, 4), (12, 6), (12, 4), (11, 5), (11, 6))
    share = (0.83, 0.015, 0.015, 0.05, 0.05, 0.02, 0.02)
    return counts[int(rng.choice(len(counts), p=share))]


def _draw_spine(
    rng: np.random.Generator,
    counts: tuple[int, int],
    size: float,
    lordosis: float,
    found: findings.Findings,
) -> list[Vertebra]:
    """Return the vertebrae from C3, placed."""
    names, expected = level_names(*counts), expected_sizes(*counts)
    kyphosis = float(np.clip(rng.normal(1.1, 0.35), 0.2, 2.2))
    span, tall = size * rng.normal(1.0, 0.04), size * rng.normal(1.0, 0.03)
    depression, flare = rng.uniform(0.4, 2.2), rng.uniform(0.05, 0.2)
    worn = rng.uniform(0.0, 0.6)
    place = np.arange(len(names)) - len(names) + 1.0
    cobb = float(abs(rng.normal(0, 6.0)) if rng.random() < 0.8 else rng.uniform(10, 40))
    angle = 2 * np.pi * place / rng.uniform(9, 16) + rng.uniform(0, 2 * np.pi)
    fade = np.exp(-((place + 5) ** 2) / 120)
    bend, turn = cobb / 2 * np.sin(angle) * fade, 0.4 * cobb * np.cos(angle) * fade
    pieces: list[Vertebra] = []
    for i, name in enumerate(names):
        base = expected[name]
        low = name.startswith("L") or name in ("T11", "T12", "T13")
        tilt = base.tilt * (lordosis if low else kyphosis if base.tilt < 0 else 1.0)
        new = replace(
            base,
            height=base.height * tall * rng.normal(1, 0.02),
            wedge=base.wedge * tall + rng.normal(0, 0.6),
            depth=base.depth * span * rng.normal(1, 0.015),
            width=base.width * span * rng.normal(1, 0.015),
            disc=max(1.0, base.disc * tall * (1 - worn * rng.uniform(0, 1.2))),
            process=base.process * span * rng.normal(1, 0.06),
            tilt=tilt + rng.normal(0, 1.2) + _forward(names, i, expected, found),
        )
        frame = Frame(np.zeros(3), rotation(*np.deg2rad((new.tilt, bend[i], turn[i]))))
        collapse = found.collapse.get(name, INTACT)
        shape = (depression, flare, span, collapse, float(bend[i]), float(turn[i]))
        pieces.append(Vertebra(name, frame, new, *shape))
    return stack(pieces, found.slips)


def _forward(
    names: Sequence[str], index: int, expected: dict[str, LevelSize], found: findings.Findings
) -> float:
    """Return by how many degrees the wedges at and below a level tilt it (forward: negative)."""
    total = 0.0
    for name, lost in found.collapse.items():
        wedge = (lost.anterior - lost.posterior) * expected[name].height / expected[name].depth
        below = names.index(name)
        share = 1.0 if below > index else 1 - lost.upper if below == index else 0.0
        total -= np.rad2deg(np.arctan(wedge)) * share * 0.7
    return float(total)


def _draw_sacrum(
    rng: np.random.Generator, last: Vertebra, lordosis: float, size: float, found: findings.Findings
) -> list[Vertebra]:
    """Return the segments of the sacrum."""
    if "lumbarised" in found.variants:
        second = rng.uniform(4.0, 8.0)
    else:
        second = float(rng.choice((0.0, rng.uniform(1.0, 4.0)), p=(0.6, 0.4)))
    if "sacralised" in found.variants:
        last = replace(last, size=replace(last.size, disc=last.size.disc * 0.5))
    # Sacral slopes of 15° to 65° are what standing people have (Roussouly et al. 2005).
    tilt = float(np.clip(sacral_tilt(lordosis) + rng.normal(0, 5), -65.0, -15.0))
    bent = rng.uniform(0.0, 1.2)
    return make_sacrum(last, tilt, bent, size, second, found.slips.get(last.name, 0.0))


def draw_ribs(
    rng: np.random.Generator, thoracic: int, size: float, variants: bool
) -> dict[str, tuple[float | None, float | None]]:
    """Return level → lengths (right, left) in mm; None for a rib that goes all the way.

    Variants are stumps and missing ribs at T12 (12 %), and ribs at L1 (3 %).
    """
    lengths: dict[str, tuple[float | None, float | None]] = {}
    for number in range(1, thoracic - 1):
        lengths[f"T{number}"] = (None, None)
    for number in (thoracic - 1, thoracic):
        last = number == thoracic
        usual, spread, least = (105.0, 30.0, 20.0) if last else (195.0, 25.0, 110.0)
        if number == 13:
            usual, spread = 55.0, 20.0
        both = rng.normal(usual, spread)
        pair = [float(np.clip(both + rng.normal(0, 10), least, 240.0) * size) for _ in range(2)]
        lengths[f"T{number}"] = (pair[0], pair[1])
    draw, side = rng.random(), int(rng.integers(2))
    pair = [float(v) for v in rng.uniform(20.0, 45.0, 2)]
    if not variants:
        return lengths
    if draw < 0.08:  # stumps, one or both of them
        long = lengths["T12"][0]
        lengths["T12"] = (pair[0], pair[1]) if draw < 0.04 else (pair[0], long)
    elif draw < 0.11:
        lengths["T12"] = (0.0, lengths["T12"][1]) if side else (lengths["T12"][0], 0.0)
    elif draw < 0.12:
        lengths["T12"] = (0.0, 0.0)
    elif draw < 0.15:
        lengths["L1"] = (pair[0], 0.0 if side else pair[1])
    return lengths


def _draw_outside(
    rng: np.random.Generator,
    spine: list[Vertebra],
    trunk: Trunk,
    paths: dict[tuple[str, int], Vector],
) -> list[Solid]:
    """Return couch, arms, head, wall and shoulders."""
    solids = surroundings.make_couch(rng, trunk) if rng.random() < 0.75 else []
    posture = rng.random()
    sides = (1, -1) if posture < 0.12 else ((1,), (-1,))[posture < 0.16] if posture < 0.2 else ()
    for side in sides:
        solids += surroundings.make_arms(rng, trunk, spine, side)
    solids += surroundings.make_head(rng, spine, trunk.habitus.size)
    if rng.random() < 0.4:
        solids += surroundings.make_breasts(rng, spine, trunk)
    legs = trunk.at(float(trunk.z[0]))
    solids += muscles.make_wall(rng, trunk, mm(float(legs[0]), float(legs[1]), 0.0))
    return solids + surroundings.make_shoulders(spine, trunk, paths)


def _draw_inside(
    rng: np.random.Generator,
    spine: list[Vertebra],
    sacrum: list[Vertebra],
    trunk: Trunk,
) -> list[Solid]:
    """Return the organs, the muscles and the pelvis."""
    size = trunk.habitus.size
    turn = np.deg2rad((sacrum[0].size.tilt - sacral_tilt(1.0)) * 0.7)
    pelvis = Frame(sacrum[0].frame.origin, rotation(turn, 0.0, 0.0))
    pelvis = pelvis.moved(0.0, rng.normal(4, 4), rng.normal(0, 5))
    hips = rng.normal(1.0, 0.05)
    bulk = (
        float(np.clip(rng.normal(0.95, 0.15), 0.5, 1.3)),
        float(np.clip(rng.normal(0.95, 0.2), 0.4, 1.4)),
    )
    draw = rng.random()
    replaced = 1 if draw < 0.02 else -1 if draw < 0.04 else 0
    return [
        *viscera.make_chest(rng, spine, trunk),
        muscles.make_guard(spine, sacrum),
        *viscera.make_abdomen(rng, spine, pelvis, trunk),
        *viscera.make_vessels(rng, spine, pelvis, size),
        *findings.make_masses(rng, spine, pelvis, trunk),
        *findings.make_fluid(rng, spine, trunk),
        *findings.make_calcifications(rng, spine, size),
        *muscles.make_muscles(spine, sacrum, pelvis, bulk, (size, hips), trunk.habitus.fat),
        *make_pelvis(pelvis, size, hips, replaced),
    ]


def _draw_bones(
    rng: np.random.Generator,
    spine: list[Vertebra],
    sacrum: list[Vertebra],
    found: findings.Findings,
) -> list[Solid]:
    """Return discs, arches, canal, sacrum, bodies and what was implanted."""
    solids: list[Solid] = []
    dents = {b.name: findings.schmorl_parts(b, found.schmorl.get(b.name, ())) for b in spine}
    for upper, lower in zip(spine, [*spine[1:], sacrum[0]], strict=True):
        disc = disc_between(upper, lower, rng.uniform(0.98, 1.1))
        nodes = dents.get(upper.name, []) + dents.get(lower.name, [])
        solids.append(Solid((disc, *nodes), ((Tissue.DISC, 0.0),)))
        if rng.random() < 0.05:
            solids.append(findings.make_vacuum(rng, disc.vertebra))
    sides = ((1, -1), (1,), (-1,))[int(rng.choice(3, p=(0.6, 0.2, 0.2)))]
    joined = sacralised_parts(spine[-1], sacrum[0], sides)
    process, droop = rng.normal(1.0, 0.1), rng.normal(1.0, 0.3)
    arches = {body.name: arch_parts(body, process, droop) for body in spine}
    if "sacralised" in found.variants:
        arches[spine[-1].name] += joined
    reach = rng.uniform(38, 46) if "lumbarised" in found.variants else 58.0
    parts, cuts = sacrum_parts(sacrum, reach)
    solids.append(Solid(parts, ((Tissue.JOINT_CARTILAGE, -1.8),), over=_HIP))
    residue = sacrum[1].size.disc
    if residue > 0:  # what is left of the disc S1/S2 parts the two segments
        gap = _residual_disc(sacrum, residue, 0.9 if "lumbarised" in found.variants else 0.7)
        solids.append(Solid(parts, _SACRUM_LAYERS, minus=(*cuts, gap), blend=4.0))
        solids.append(solid(Tissue.DISC, gap))
    else:
        solids.append(Solid(parts, _SACRUM_LAYERS, minus=cuts, blend=4.0))
    solids += [Solid(arches[body.name], ARCH_LAYERS, blend=1.5) for body in spine]
    solids += muscles.make_canal(spine, sacrum, rng.uniform(0.75, 1.05))
    solids += findings.make_osteophytes(rng, spine)
    for body in spine:
        level, cut = LEVEL_NUMBERS[body.name], tuple(dents[body.name])
        solids.append(Solid((Body(body),), BODY_LAYERS, minus=cut, level=level))
        share = 0.15 if body.name in found.kinds else 0.003
        if rng.random() < share:
            solids.append(findings.make_cement(rng, body))
    if found.fused:
        solids += findings.make_implants(rng, [body for body in spine if body.name in found.fused])
    return solids


def _residual_disc(sacrum: list[Vertebra], height: float, wide: float) -> Body:
    """Return the disc S1/S2, ``height`` in mm and ``wide`` relative to the segments."""
    whole = disc_between(sacrum[0], sacrum[1], wide).vertebra
    return Body(replace(whole, size=replace(whole.size, height=height)))
