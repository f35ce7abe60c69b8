"""Painting of the spine on thin sections: discs, thecal sac, bodies with their shell, arches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from monai_vfx.core.arrays import LabelVolume, Region
from monai_vfx.simulation.canvas import (
    Canvas,
    Field,
    Knots,
    Tube,
    capsule_box,
    capsule_distance,
)
from monai_vfx.simulation.patients import Patient
from monai_vfx.simulation.scanner import SUB_SLICES, sub_slices
from monai_vfx.simulation.spine import (
    Rod,
    Spine,
    Vertebra,
    arch_rods,
    body_distance,
    disc_between,
    sacral_rods,
)
from monai_vfx.simulation.torso import FAT

CORTEX_HU, DISC_HU, SAC_HU, LIGAMENT_HU = 780.0, 82.0, 22.0, 70.0
LABELLED = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")  # Levels whose bodies the mask names
# Trabecular attenuation of a level relative to L1.
_FACTOR = {"T9": 1.12, "T10": 1.10, "T11": 1.08, "T12": 1.04, "L1": 1.0, "L2": 0.97, "L3": 0.94}
_FACTOR |= {"L4": 0.94, "L5": 0.98, "S1": 0.9, "S2": 0.7, "S3": 0.6}
_FAR = np.float32(50.0)
# SD of the core's texture in units of the patient's: finer or fainter grains leave bone more even
# than in real CT, coarser or stronger ones look blotchy in axial slices (benchmarks/realism).
_GRAIN = 2.0


def paint_spine(
    canvas: Canvas, spine: Spine, patient: Patient, trabecular_hu: float, rng: np.random.Generator
) -> None:
    """Paint the spine into a canvas of thick slices by way of thin sections.

    The canvas holds the soft tissue; its labels gain the bodies. ``trabecular_hu`` is the
    attenuation of L1's core; the patient's are the cortex's thickness and the core's texture.
    """
    around = canvas.window(*_extent(spine))
    if around is None:
        return
    fine = Canvas(canvas.x[around[2]], canvas.y[around[1]], sub_slices(canvas.z[around[0]]))
    # Endplates lie across the sections: an edge narrower than these would draw them as dots.
    fine.edge = max(fine.edge, float(fine.z[1] - fine.z[0]))
    fine.hu = np.repeat(canvas.hu[around], SUB_SLICES, axis=0)
    _paint_soft_parts(fine, spine)
    for body in spine.vertebrae:
        core = trabecular_hu * _FACTOR[body.name]
        _paint_vertebra(fine, body, arch_rods(body), patient, core, rng)
    rods = sacral_rods(spine.sacrum)
    share = len(rods) // len(spine.sacrum)
    for number, segment in enumerate(spine.sacrum):
        core = trabecular_hu * _FACTOR[segment.name]
        own = rods[number * share : (number + 1) * share]
        _paint_vertebra(fine, segment, own, patient, core, rng)
    thick = fine.hu.reshape(-1, SUB_SLICES, *fine.hu.shape[1:])
    canvas.hu[around] = thick.mean(axis=1)
    middle: LabelVolume = fine.labels[SUB_SLICES // 2 :: SUB_SLICES]
    # Bone is painted over the muscle beside it, so it takes the voxel from the muscle's label.
    labels = canvas.labels[around]
    labels[middle > 0] = middle[middle > 0]
    labels[middle == _ARCH] = 0


_ARCH = 255  # a working label: bone that the mask does not name


def _paint_vertebra(
    canvas: Canvas,
    body: Vertebra,
    rods: Sequence[Rod],
    patient: Patient,
    core_hu: float,
    rng: np.random.Generator,
) -> None:
    """Paint one vertebra as one bone: the cortex runs round body and arch together."""
    region = canvas.window(*_box(body, rods))
    if region is None:
        return
    positions = canvas.positions(region)
    side, end = body_distance(body, positions)
    inside_body = np.maximum(side, end)
    arch = _arch_distance(canvas, rods, region, side.shape)
    # Endplates with their dense layer, and the arch's cortex, are thicker than the side wall.
    cortex = np.float32(patient.cortex_mm)
    outer = np.minimum(inside_body, arch)
    core_body = np.maximum(side + cortex, end + np.float32(1.5) * cortex)
    inner = np.minimum(core_body, arch + np.float32(1.4) * cortex + np.float32(0.5))
    texture = _texture(canvas, rng, side.shape, _GRAIN * patient.texture, grain_mm=2.0)
    core = np.where(arch < inside_body, core_hu * 1.1 + 60.0, core_hu * texture)
    shell = np.float32(CORTEX_HU) * _texture(canvas, rng, side.shape, 0.27, grain_mm=5.0)
    canvas.paint(region, canvas.cover(outer), shell)
    canvas.paint(region, canvas.cover(inner), core.astype(np.float32))
    if not body.name.startswith("S"):  # the cleft of the basivertebral vein
        ends = [body.world(0, share * body.half_depth, 0) for share in (0.1, 0.9)]
        canvas.paint_capsule(ends[0], ends[1], 1.6, 80.0)
    names = canvas.labels[region]
    names[outer < 0] = _ARCH
    if body.name in LABELLED:
        names[inside_body < 0] = body.label


def _arch_distance(
    canvas: Canvas, rods: Sequence[Rod], box: Region, shape: tuple[int, ...]
) -> Field:
    """Return the distance to the nearest rod, each evaluated only in its own neighbourhood."""
    union: Field = np.full(shape, _FAR, dtype=np.float32)
    for rod in rods:
        region = canvas.window(*capsule_box(rod.start, rod.end, rod.radius + 3.0))
        if region is None:
            continue
        distance = capsule_distance(canvas.positions(region), rod.start, rod.end, rod.radius)
        own = tuple(
            slice(max(part.start - whole.start, 0), part.stop - whole.start)
            for part, whole in zip(region, box, strict=True)
        )
        np.minimum(union[own], distance, out=union[own])
    return union


def _texture(
    canvas: Canvas,
    rng: np.random.Generator,
    shape: tuple[int, ...],
    strength: float,
    grain_mm: float,
) -> Field:
    """Return a texture as a factor around 1 of SD ``strength``, grains 2.4 ``grain_mm`` wide."""
    sigma = [grain_mm / step for step in canvas.spacing]
    grains: Field = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), sigma, truncate=2.5
    )
    grains *= np.float32(strength / max(float(grains.std()), 1e-6))
    result: Field = np.clip(1 + grains, 0.3, 1.9)
    return result


def _paint_soft_parts(canvas: Canvas, spine: Spine) -> None:
    """Paint what lies between the bones: epidural fat, thecal sac, discs, ligaments."""
    middle = [v.world(0, v.half_depth * 0.9 + 8.0 * v.span, 0) for v in spine.column[::-1]]
    x, y, z = np.transpose(middle)
    for radii, value in (((10.5, 8.5), FAT + 40), ((8.0, 6.8), SAC_HU)):
        canvas.paint_tube(Tube.of(z, x, y, *radii), value)
    for upper, lower in itertools.pairwise(spine.column):
        disc = disc_between(upper, lower)
        region = canvas.window(*_box(disc, ()))
        if region is not None:
            side, end = body_distance(disc, canvas.positions(region))
            distance = np.maximum(side, end)
            ring = np.where(side > -5.0, np.float32(DISC_HU + 15), np.float32(DISC_HU))
            canvas.paint(region, canvas.cover(distance), ring)
            canvas.labels[region][distance < 0] = _ARCH
        back = upper.half_depth * 0.9 + 22.0 * upper.span  # interspinous ligament
        canvas.paint_capsule(upper.world(0, back + 6, -20), upper.world(0, back + 15, -22), 4, 50.0)


def _box(body: Vertebra, rods: Sequence[Rod]) -> tuple[Knots, Knots]:
    """Return the corners of the box around a body and its rods, mm."""
    reach = np.hypot(body.half_depth, body.height / 2) * (1 + body.flare) + 4
    wide = body.half_width * (1 + 1.5 * body.flare) + 3
    x, y, z = body.centre
    corners: list[Any] = [(x - wide, y - reach, z - reach), (x + wide, y + reach, z + reach)]
    for rod in rods:
        corners += capsule_box(rod.start, rod.end, rod.radius + 3.0)
    return np.min(corners, axis=0), np.max(corners, axis=0)


def _extent(spine: Spine) -> tuple[Knots, Knots]:
    """Return the corners of the box around the whole spine, mm."""
    boxes = [_box(v, arch_rods(v)) for v in spine.vertebrae]
    boxes += [_box(v, ()) for v in spine.sacrum]
    corners: list[Any] = [corner for box in boxes for corner in box]
    for rod in sacral_rods(spine.sacrum):
        corners += capsule_box(rod.start, rod.end, rod.radius)
    return np.min(corners, axis=0), np.max(corners, axis=0)
