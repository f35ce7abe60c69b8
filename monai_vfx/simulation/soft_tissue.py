"""Painting of the couch, the trunk's layers, the lungs' bases and the muscles with their fat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from monai_vfx.core.anatomy import MUSCLES
from monai_vfx.core.arrays import Region
from monai_vfx.simulation.canvas import Canvas, Field, Tube
from monai_vfx.simulation.patients import Patient
from monai_vfx.simulation.spine import Spine
from monai_vfx.simulation.torso import FAT, Torso, erector_spinae, iliac_wing, psoas, quadratus

SKIN, WALL, LUNG = 5.0, 54.0, -850.0
ASYMMETRY = 0.05
"""SD of what one side's cross-section of a muscle has above the mean of both, as a share."""


def paint_table(canvas: Canvas, torso: Torso) -> None:
    """Paint a curved couch of carbon fibre around foam, below a thin mattress."""
    first = (slice(0, 1), slice(0, len(canvas.y)), slice(0, len(canvas.x)))
    x, y, _ = canvas.positions(first)
    half = np.float32(210.0)
    # The top is hollow: it rises at the sides, where the trunk curves away from it.
    depth = y - (np.float32(max(torso.skin_back) + 14.0) - x * x / np.float32(1100.0))
    thickness = np.float32(45.0) * (1 - (x / half) ** 2)
    inside = np.maximum(np.abs(x) - half, np.maximum(-depth, depth - thickness))
    canvas.paint(first, canvas.cover(inside), -960.0)
    canvas.paint(first, canvas.cover(np.abs(inside) - np.float32(1.1)), 120.0)
    canvas.hu[1:] = canvas.hu[0:1]


def paint_trunk(canvas: Canvas, torso: Torso, spine: Spine) -> Field:
    """Paint skin, fat, wall, lungs and the cavity's fat; return the cavity, to clip organs to.

    The cavity is (z, y, x), the share of each voxel that lies in it.
    """
    _paint_skin(canvas, torso)
    canvas.paint_tube(torso.muscle_ring(), WALL)
    for share in (0.34, 0.67):  # fat between the layers of the oblique muscles
        layer = canvas.tube(torso.muscle_ring(inset=torso.wall * share))
        if layer is not None:
            region, distance = layer
            canvas.paint(region, 0.5 * canvas.cover(np.abs(distance) - np.float32(0.3)), FAT)
    canvas.paint_tube(torso.wall_inside(), FAT)
    cavity = np.zeros_like(canvas.hu)
    found = canvas.tube(torso.cavity)
    if found is not None:
        region, distance = found
        cavity[region] = canvas.cover(distance)
        canvas.paint(region, cavity[region], FAT)
        _paint_lungs(canvas, region, distance, spine)
    return cavity


def paint_muscles(
    canvas: Canvas, torso: Torso, spine: Spine, patient: Patient, rng: np.random.Generator
) -> None:
    """Paint and label the paravertebral muscles, with fat by the patient's muscle state."""
    male = patient.sex == "M"
    uneven = np.clip(rng.normal(0, ASYMMETRY, 3), -2 * ASYMMETRY, 2 * ASYMMETRY)
    for side in (-1, 1):
        gluteus = iliac_wing(torso, spine, side, inset=-11.0 * torso.build)
        canvas.paint_tube(replace(gluteus, y=gluteus.y + 8.0), WALL)
    for side in (-1, 1):
        canvas.paint_tube(iliac_wing(torso, spine, side, inset=0.0), 620.0)
        marrow = 0.7 * patient.trabecular_hu + 50.0
        canvas.paint_tube(iliac_wing(torso, spine, side, inset=1.5), marrow)
        larger = 1 + side * uneven  # areas of both sides together stay the patient's
        small = quadratus(torso, spine, side, patient.psoas_scale * larger[0])
        _paint_muscle(canvas, small, patient, 0.7, None, rng)
        front = psoas(torso, spine, side, patient.psoas_scale * larger[1], male)
        _paint_muscle(canvas, front, patient, 0.35, MUSCLES["psoas"], rng)
        back = erector_spinae(torso, spine, side, patient.erector_scale * larger[2])
        _paint_muscle(canvas, back, patient, 1.0, MUSCLES["erector_spinae"], rng)


def marbling(rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Field:
    """Return a random field of mean 0 and SD 1 that runs in strands along z.

    Shape and spacing (mm) are along z, y, x; the strands are 2 to 4 mm wide and 16 mm long.
    """
    white = rng.standard_normal(shape, dtype=np.float32)
    layers = []
    for widths in ((7.0, 0.9, 1.5), (7.0, 1.5, 0.9)):
        sigma = [width / step for width, step in zip(widths, spacing, strict=True)]
        smooth: Field = ndimage.gaussian_filter(white, sigma, truncate=2.5)
        layers.append(smooth / max(float(smooth.std()), 1e-6))
    field = np.maximum(*layers)
    result: Field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return result


def _paint_muscle(
    canvas: Canvas,
    shape: Tube,
    patient: Patient,
    fatness: float,
    label: int | None,
    rng: np.random.Generator,
) -> None:
    """Paint one muscle; its fat share is ``fatness`` times that of the erector spinae."""
    found = canvas.tube(shape)
    if found is None:
        return
    region, distance = found
    share = canvas.cover(distance)
    inside = share > 0.5
    field = _fat_field(canvas, shape, region, distance, rng)
    fraction = min(patient.fat_fraction * fatness, 0.6)
    if not inside.any():
        return
    threshold = np.float32(np.quantile(field[inside], 1.0 - fraction))
    fat = np.clip((field - threshold) / np.float32(2.0) + np.float32(0.5), 0.0, 1.0)
    value = np.float32(patient.lean_hu) + fat * np.float32(-85.0 - patient.lean_hu)
    canvas.paint(region, share, value, label)


def _fat_field(
    canvas: Canvas, shape: Tube, region: Region, distance: Field, rng: np.random.Generator
) -> Field:
    """Return where fat comes first: strands, more near the spine, clefts between the bellies."""
    x, y, z = canvas.positions(region)
    field = marbling(rng, distance.shape, canvas.spacing)
    at = [np.interp(z, shape.z, k) for k in (shape.x, shape.y, shape.half_x, shape.half_y)]
    half_x, half_y = (np.maximum(half, 1.0).astype(np.float32) for half in at[2:])
    middle_x, middle_y = (middle.astype(np.float32) for middle in at[:2])
    u = np.abs(x - middle_x) / half_x
    inward = np.where(np.abs(x) < np.abs(middle_x), u, -u)
    v = (y - middle_y) / half_y
    field += np.float32(0.7) * inward - np.float32(0.5) * v  # most beside the laminae
    for place, lean in ((0.28, 0.25), (-0.38, -0.15)):  # multifidus | longissimus | iliocostalis
        cleft = (inward - np.float32(place) - np.float32(lean) * v) * half_x
        field += np.float32(1.1) * np.exp(-((cleft / np.float32(1.6)) ** 2))
    return field


def _paint_skin(canvas: Canvas, torso: Torso) -> None:
    """Paint skin and the fat below it; the back is flat from lying, with a furrow in the middle."""
    for depth, value in ((0.0, SKIN), (2.0, FAT)):
        found = canvas.tube(torso.outline(inset=depth))
        if found is None:
            return
        region, distance = found
        x, y, z = canvas.positions(region)
        furrow = 4.0 * np.exp(-((x / 13.0) ** 2))
        plane = np.interp(z, torso.z, torso.skin_back).astype(np.float32) - depth - furrow
        behind = y - plane
        # A maximum with a rounded edge: flesh does not end in a corner.
        rounded = np.sqrt((distance - behind) ** 2 + np.float32(20.0) ** 2)
        canvas.paint(region, canvas.cover((distance + behind + rounded) / 2 - 3), value)


def _paint_lungs(canvas: Canvas, region: Region, distance: Field, spine: Spine) -> None:
    """Paint the lungs in the recess behind the diaphragm, thicker towards the head."""
    _, y, z = canvas.positions(region)
    floor = spine["T12"].centre[2] + 8.0
    thickness = np.clip((z - np.float32(floor)) * np.float32(0.75), 0.0, 60.0)
    back = np.float32(spine["T11"].centre[1] - 62.0)
    recess = np.maximum(distance + np.float32(3.0), -distance - 3 - thickness)
    recess = np.maximum(recess, (back - y) * np.float32(0.6) + (20.0 - thickness))
    recess = np.where(thickness > 0, recess, np.float32(99.0))
    canvas.paint(region, canvas.cover(recess), LUNG)
