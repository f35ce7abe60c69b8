"""Imaging baselines: attenuation of trabecular bone, attenuation, area and fat of the muscle.

The simple measurements that a deep model must beat (Pickhardt et al. 2020), taken from the CT and
the label map in world millimetres, on the CT's own voxels.

*Bone.* In each body of T12-L4 the region of interest lies at least ``DEPTH_MM`` below the body's
surface (inside cortex and endplates), in the middle half of its height and in its anterior two
thirds (in front of the basivertebral vein). Height runs along the line through the neighbouring
levels; anterior is the patient's, square to that line. The measure is the mean HU.

*Muscle.* Erector spinae (multifidus included) and psoas together, both sides. Attenuation is the
mean of the voxels from -29 to 150 HU between the top of T12 and the bottom of L4; the fat fraction
is the share of voxels from -190 to -30 HU among those from -190 to 150; the area is that of the
voxels from -29 to 150 HU on the slices through the middle of L3, mean of those within 5 mm of it.
A label map without both muscles has no muscle measure; none is estimated from geometry.

All of them depend on contrast medium and tube voltage: compare within one protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from monai_vfx.case.case import Case, check_voxels, load_case
from monai_vfx.core.anatomy import LEVELS, MUSCLES, VERTEBRAE
from monai_vfx.core.arrays import Affine, BoolVolume, HUVolume, Json, LabelVolume, Points, Region
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import (
    box_affine,
    long_axis,
    nonzero_box,
    voxel_spacing,
    world_positions,
)
from monai_vfx.core.workers import run_tasks

IMAGING_VARIABLES: tuple[str, ...] = (
    "l1_trabecular_hu",
    "t12_l4_trabecular_hu",
    "muscle_hu",
    "muscle_area_cm2",
    "muscle_fat_fraction",
)
"""Measurements of a case: HU, HU, HU, cm², share from 0 to 1."""

DEPTH_MM = 4.0
"""Distance of the bone's region of interest from the nearest voxel outside the body."""
HEIGHT_SHARE = 0.5
"""Middle part of the body's height that it may lie in."""
ANTERIOR_SHARE = 2 / 3
"""Anterior part of the body's depth that it may lie in."""
MIN_ROI_MM3 = 200.0
"""A smaller region is no measurement."""
MIN_LEVELS = 3
"""Levels that a mean over T12-L4 needs."""
FAT_HU = (-190.0, -29.5)
LEAN_HU = (-29.5, 150.0)
"""Bounds of fat (-190 to -30 HU) and muscle (-29 to 150 HU) for values that need not be whole."""
MIDDLE_MM = 5.0
"""Slices this near to the middle of L3 count for the muscle's area."""

Progress = Callable[[int, int], None]


def imaging_features(
    image: str | PathLike[str], mask: str | PathLike[str] | None, *, scheme: str | None = None
) -> Json:
    """Measure one case.

    Args:
        image: DICOM folder or zip, NIfTI or NRRD.
        mask: label map or folder of per-structure files.
        scheme: label scheme of the mask; found from names or ids by default.

    Returns:
        Each of :data:`IMAGING_VARIABLES` (NaN where it cannot be measured) and ``note``: why not,
        empty where all could be.
    """
    case = load_case(image, mask, scheme=scheme)
    region = _region(case)
    hu, labels = case.volume.read(region), case.masks.labels[region]
    check_voxels(case, region, hu)
    sizes = zip(region, case.volume.shape, strict=True)
    edges = tuple((part.start == 0, part.stop == size) for part, size in sizes)
    affine = box_affine(case.volume.affine, region)
    return measure(hu, labels, affine, cut=case.masks.cut, edges=edges)


def measure(
    hu: HUVolume,
    labels: LabelVolume,
    affine: Affine,
    *,
    cut: tuple[str, ...] = (),
    edges: tuple[tuple[bool, bool], ...] = ((False, False),) * 3,
) -> Json:
    """Measure a box of a CT that holds the bodies and muscles of T12-L4.

    Args:
        hu: (i, j, k).
        labels: (i, j, k), bodies by VerSe number and muscles as in :mod:`monai_vfx.core.anatomy`.
        affine: (4, 4) of the box, index → world mm, RAS+.
        cut: levels at the edge of the field of view; they are not measured.
        edges: for each axis, whether the CT ends where the box starts, and where it stops.

    Returns:
        As :func:`imaging_features`.
    """
    bodies = _bodies(labels, affine)
    notes: list[str] = []
    trabecular: dict[str, float] = {}
    for body in bodies:
        if body.level in cut:
            notes.append(f"{body.level} is cut by the field of view")
            continue
        values = hu[body.box][_trabecular(body)]
        volume = values.size * float(np.prod(voxel_spacing(affine)))
        if volume < MIN_ROI_MM3:
            notes.append(f"{body.level}: {volume:.0f} mm³ of trabecular bone are too few")
            continue
        trabecular[body.level] = float(values.mean(dtype=np.float64))
    found: Json = dict.fromkeys(IMAGING_VARIABLES, float("nan"))
    found["l1_trabecular_hu"] = trabecular.get("L1", float("nan"))
    if len(trabecular) >= MIN_LEVELS:
        found["t12_l4_trabecular_hu"] = float(np.mean(list(trabecular.values())))
    found |= _muscle(hu, labels, affine, bodies, edges, notes)
    return found | {"note": "; ".join(notes)}


def feature_table(
    frame: pd.DataFrame, workers: int = 1, progress: Progress | None = None
) -> tuple[pd.DataFrame, list[Json]]:
    """Measure every case of a patient table; a refused case never stops the others.

    Args:
        frame: ``case_id``, ``image`` and ``mask`` (paths; empty cells are refused).
        workers: processes; 1 works in this one.
        progress: called with (cases done, cases) after each.

    Returns:
        One row a case in the table's order: ``case_id``, :data:`IMAGING_VARIABLES`, ``note``; a
        refused case has none of them. And the refusals: ``case_id``, ``code``, ``message``.
    """
    jobs = [
        (str(case), _path(image), _path(mask))
        for case, image, mask in zip(frame["case_id"], frame["image"], frame["mask"], strict=True)
    ]
    found: dict[_Job, tuple[Json, Json | None]] = {}
    for job, result in run_tasks(_measure_case, jobs, workers if workers > 1 else 0, _crashed):
        found[job] = result
        if progress is not None:
            progress(len(found), len(jobs))
    rows, refusals = zip(*(found[job] for job in jobs), strict=True) if jobs else ((), ())
    table = pd.DataFrame(list(rows), columns=["case_id", *IMAGING_VARIABLES, "note"])
    return table, [refusal for refusal in refusals if refusal is not None]


_Job = tuple[str, str | None, str | None]


def _path(cell: Any) -> str | None:
    return None if cell is None or cell != cell or str(cell) == "" else str(cell)


def _measure_case(job: _Job) -> tuple[Json, Json | None]:
    case, image, mask = job
    try:
        if image is None:
            raise CaseRefused("no_image", "the table names no image")
        return {"case_id": case, **imaging_features(image, mask)}, None
    except CaseRefused as refusal:
        return _refused(case, refusal.code, refusal.message)
    except Exception as error:  # whatever one file does, the others must be measured
        # Its text may hold a path, and a path a patient's name.
        return _refused(case, "internal", f"measuring ended with {type(error).__name__}")


def _refused(case: str, code: str, message: str) -> tuple[Json, Json]:
    row: Json = dict.fromkeys(IMAGING_VARIABLES, float("nan"))
    refusal = {"case_id": case, "code": code, "message": message}
    return {"case_id": case, **row, "note": code}, refusal


def _crashed(job: _Job) -> tuple[Json, Json]:
    return _refused(job[0], "internal", "the process that measured it died")


@dataclass(frozen=True)
class _Body:
    """One body in a box of its own, with each voxel's place in mm."""

    level: str
    box: Region
    inside: BoolVolume
    spacing: npt.NDArray[np.float64]
    height: Points  # (n,) of the body's voxels along the spine, mm
    front: Points  # (n,) towards the patient's front, mm
    centre: Points  # (3,) world mm


def _region(case: Case) -> Region:
    """Return the box of bodies, muscles and the fat around them, on the bodies' slices alone."""
    around = case.region()
    labels = case.masks.box or around
    axis = case.volume.slice_axis
    i, j, k = (
        near if number == axis else slice(min(near.start, wide.start), max(near.stop, wide.stop))
        for number, (near, wide) in enumerate(zip(around, labels, strict=True))
    )
    return i, j, k


def _bodies(labels: LabelVolume, affine: Affine) -> list[_Body]:
    """Find the bodies of T12-L4 and their own axes."""
    every = [(level, nonzero_box(labels == VERTEBRAE[level], margin=1)) for level in LEVELS]
    boxes = [(level, box) for level, box in every if box is not None]
    insides = [labels[box] == VERTEBRAE[level] for level, box in boxes]
    places = [
        world_positions(box_affine(affine, box), np.argwhere(inside))
        for (_, box), inside in zip(boxes, insides, strict=True)
    ]
    centres = np.array([place.mean(axis=0) for place in places]).reshape(-1, 3)
    ups = np.tile([0.0, 0.0, 1.0], (len(boxes), 1))
    if len(boxes) > 1:
        steps = -np.gradient(centres, axis=0)
        ups = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    found, spacing = [], voxel_spacing(affine)
    for (level, box), inside, place, centre, up in zip(
        boxes, insides, places, centres, ups, strict=True
    ):
        ahead = np.array([0.0, 1.0, 0.0]) - up * up[1]
        ahead /= np.linalg.norm(ahead)
        offset = place - centre
        found.append(_Body(level, box, inside, spacing, offset @ up, offset @ ahead, centre))
    return found


def _trabecular(body: _Body) -> BoolVolume:
    """Return the region of interest in a body's box."""
    # One voxel more on each side: where the box ends with the CT, the body does so too.
    padded = np.pad(body.inside, 1)
    depth = ndimage.distance_transform_edt(padded, sampling=body.spacing)[1:-1, 1:-1, 1:-1]
    low, high = np.quantile(body.height, [0.02, 0.98])
    back, front = np.quantile(body.front, [0.02, 0.98])
    margin = (1 - HEIGHT_SHARE) / 2 * (high - low)
    kept = (body.height >= low + margin) & (body.height <= high - margin)
    kept &= body.front >= front - ANTERIOR_SHARE * (front - back)
    region = np.zeros_like(body.inside)
    region[body.inside] = kept
    return region & (depth > DEPTH_MM)


def _muscle(
    hu: HUVolume,
    labels: LabelVolume,
    affine: Affine,
    bodies: list[_Body],
    edges: tuple[tuple[bool, bool], ...],
    notes: list[str],
) -> Json:
    """Return the muscle's measures; a reason in ``notes`` for those that are not there."""
    absent = [name for name, value in MUSCLES.items() if not (labels == value).any()]
    if absent:
        notes.append(f"no label of {' and '.join(absent)}: no muscle measure")
        return {}
    muscle = np.isin(labels, list(MUSCLES.values()))
    if _leaves(muscle, affine, edges):
        notes.append("the muscle is cut by the field of view: no muscle measure")
        return {}
    axis = long_axis(affine)
    # Fat ends below -29.5, muscle begins there; 150 itself is muscle.
    fat = muscle & (hu >= FAT_HU[0]) & (hu < FAT_HU[1])
    lean = muscle & (hu >= LEAN_HU[0]) & (hu <= LEAN_HU[1])
    if not lean.any():
        notes.append("no muscle voxel from -29 to 150 HU: no muscle measure")
        return {}
    found: Json = {
        "muscle_hu": float(hu[lean].mean(dtype=np.float64)),
        "muscle_fat_fraction": float(fat.sum() / (fat.sum() + lean.sum())),
    }
    middle = next((body.centre for body in bodies if body.level == "L3"), None)
    slices = [] if middle is None else _slices_near(middle, affine, axis, labels.shape)
    areas = [lean.take(k, axis=axis).sum() for k in slices if muscle.take(k, axis=axis).any()]
    if len(areas) == 0 or len(areas) < len(slices):
        notes.append("the muscle labels do not reach the middle of L3: no muscle area")
        return found
    spacing = voxel_spacing(affine)
    pixel = float(np.prod(np.delete(spacing, axis)))
    return found | {"muscle_area_cm2": float(np.mean(areas)) * pixel / 100}


def _slices_near(centre: Points, affine: Affine, axis: int, shape: tuple[int, ...]) -> list[int]:
    """Return the slices within ``MIDDLE_MM`` of a point, the nearest at least."""
    position = float((np.linalg.inv(affine) @ [*centre, 1.0])[axis])
    away = np.abs(np.arange(shape[axis]) - position) * voxel_spacing(affine)[axis]
    near = np.flatnonzero(away <= max(MIDDLE_MM, float(away.min())))
    return [int(k) for k in near]


def _leaves(muscle: BoolVolume, affine: Affine, edges: tuple[tuple[bool, bool], ...]) -> bool:
    """Say whether the muscle touches an end of the CT within the slices' plane."""
    for axis in set(range(3)) - {long_axis(affine)}:
        first, last = (bool(muscle.take(k, axis=axis).any()) for k in (0, -1))
        if (edges[axis][0] and first) or (edges[axis][1] and last):
            return True
    return False
