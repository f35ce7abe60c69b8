"""From one simulated patient to a CT with labels.

Soft tissue is painted once a slice; the spine on thin sections that are averaged to the slice,
because endplates and arches change within 5 mm. A voxel is labelled where the structure covers at
least half of it in the slice's central section.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.arrays import Affine, LabelVolume
from monai_vfx.core.geometry import nonzero_box, voxel_spacing
from monai_vfx.simulation.bones import paint_spine
from monai_vfx.simulation.canvas import Canvas, Field
from monai_vfx.simulation.organs import paint_organs
from monai_vfx.simulation.patients import Patient
from monai_vfx.simulation.populations import Hospital
from monai_vfx.simulation.scanner import (
    SCANNERS,
    SLICE_MM,
    FieldOfView,
    Grid,
    acquire,
    centred_axis,
    draw_scan,
)
from monai_vfx.simulation.soft_tissue import paint_muscles, paint_table, paint_trunk
from monai_vfx.simulation.spine import Spine, make_spine
from monai_vfx.simulation.torso import Torso, make_torso, ribs

EDGE_SD_MM = 0.8
"""SD of the in-plane error of an edge. Automatic contours of bodies and muscles differ from a
reader's by about a millimetre on average."""
KNOTS_MM = 12.0  # Distance over which the error changes


@dataclass(frozen=True)
class Phantom:
    """A simulated CT."""

    # (i, j, k) int16 HU; i to the patient's left, j to the back, k to the head
    hu: npt.NDArray[np.int16]
    # (i, j, k) uint8: bodies T11-L5 by VerSe number, 101 erector spinae, 102 psoas
    labels: LabelVolume
    affine: Affine  # voxel index → RAS+ mm


def make_phantom(
    patient: Patient,
    seed: np.random.SeedSequence,
    hospital: Hospital = "development",
    field_of_view: FieldOfView = "full",
) -> Phantom:
    """Build the CT that shows a patient's build and hidden state, from a hospital's scanner.

    The seed is the source of everything that the patient's table does not fix. ``full`` is the
    abdomen from T10 to the sacrum at 512 x 512, ``quick`` the neighbourhood of T12-L4 at 2 mm
    pixels; both show the same anatomy, in 5 mm slices.
    """
    body_seed, organ_seed, image_seed = seed.spawn(3)
    rng = np.random.default_rng(body_seed)
    spine = make_spine(rng, patient.height_cm, patient.sex == "M", patient.age)
    torso = make_torso(rng, patient, spine)
    rng = np.random.default_rng(image_seed)
    grid = _grid(rng, torso, spine, field_of_view)
    canvas = Canvas(grid.x, grid.y, grid.z)
    paint_table(canvas, torso)
    cavity = paint_trunk(canvas, torso, spine)
    scan = draw_scan(SCANNERS[hospital], torso.half_width / 155.0, rng)
    paint_organs(canvas, torso, spine, cavity, scan.aorta_hu, int(organ_seed.generate_state(1)[0]))
    enhanced = replace(patient, lean_hu=patient.lean_hu + scan.muscle_hu)
    paint_muscles(canvas, torso, spine, enhanced, rng)
    for depth, value in ((0.0, 560.0), (1.5, 260.0)):
        for rod in ribs(torso, spine):
            canvas.paint_capsule(rod.start, rod.end, rod.radius - depth, value)
    paint_spine(canvas, spine, patient, patient.trabecular_hu + scan.bone_hu, rng)
    hu = acquire(canvas.hu, float(grid.x[1] - grid.x[0]), scan, rng)
    origin = rng.uniform((-15.0, -160.0, -900.0), (15.0, -120.0, -300.0))
    affine = grid.affine
    affine[:3, 3] += np.round(origin, 1)
    return Phantom(hu.transpose(2, 1, 0), canvas.labels.transpose(2, 1, 0), affine)


def _grid(rng: np.random.Generator, torso: Torso, spine: Spine, field_of_view: FieldOfView) -> Grid:
    phase = float(rng.uniform(0, SLICE_MM))
    if field_of_view == "quick":
        levels = [spine[name].centre for name in ("T12", "L1", "L2", "L3", "L4")]
        x, y = (float(np.mean([c[axis] for c in levels])) for axis in (0, 1))
        low, high = spine["L5"].centre[2] + 4.0, spine["T11"].centre[2] + 8.0
        columns = centred_axis(x, 2.0, 104)
        rows = centred_axis(y + 24.0, 2.0, 96)
    else:
        low, high = spine["S2"].centre[2], spine["T10"].centre[2] + 12.0
        skin = float(np.max(torso.skin_back))
        need = max(2 * torso.half_width * 1.06, skin - torso.skin_front + 35.0) + 18.0
        pixel = float(np.clip(np.ceil(need / 512 * 200) / 200, 0.75, 0.98))
        columns = centred_axis(float(rng.normal(0, 3)), pixel, 512)
        rows = centred_axis((skin + torso.skin_front) / 2 + 16.0, pixel, 512)
    count = int((high - low) / SLICE_MM) + 1
    z = (low + phase + SLICE_MM * np.arange(count)).astype(np.float32)
    return Grid(columns, rows, z)


def with_edge_errors(
    labels: LabelVolume, affine: Affine, rng: np.random.Generator, sd_mm: float = EDGE_SD_MM
) -> LabelVolume:
    """Return a label map whose edges are off by a smooth random shift within the slices.

    Labels are (i, j, k), k along the slices' normal; the affine leads to RAS mm. ``sd_mm`` is the
    SD of the shift along each in-plane axis; 0 leaves the map as it is.
    """
    box = nonzero_box(labels)
    if box is None or sd_mm <= 0:
        return labels.copy()
    step = voxel_spacing(affine)
    reach = np.append(np.ceil(4 * sd_mm / step[:2]), 0).astype(int)
    window = tuple(
        slice(max(part.start - more, 0), min(part.stop + more, size))
        for part, more, size in zip(box, reach, labels.shape, strict=True)
    )
    shape = labels[window].shape
    places: list[npt.NDArray[np.int64]] = list(np.indices(shape, sparse=True))
    for axis in (0, 1):
        shift = np.rint(sd_mm * _smooth(shape, KNOTS_MM / step, rng) / step[axis]).astype(int)
        places[axis] = np.clip(places[axis] + shift, 0, shape[axis] - 1)
    result = np.zeros_like(labels)
    result[window] = labels[window][tuple(places)]
    return result


def _smooth(shape: tuple[int, ...], knots: Affine, rng: np.random.Generator) -> Field:
    """Return a random field of SD 1 that changes over so many voxels along each axis."""
    coarse = (np.ceil(shape / knots) + 2).astype(int)
    field = rng.standard_normal(coarse, dtype=np.float32)
    fine = ndimage.zoom(field, np.divide(shape, coarse), order=1)
    # Between the knots a mean of neighbours varies less than they do.
    result: Field = fine / max(float(fine.std()), 1e-6)
    return result
