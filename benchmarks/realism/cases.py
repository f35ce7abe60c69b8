"""Real and simulated CT with labels, on one kind of grid: axes to right, front and head."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np

from monai_vfx.core.anatomy import LEVELS, MUSCLES, VERTEBRAE
from monai_vfx.core.arrays import Affine, HUVolume, LabelVolume
from monai_vfx.core.geometry import voxel_spacing
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.patients import Patient, draw_patients
from monai_vfx.simulation.phantom import make_phantom
from monai_vfx.simulation.populations import Hospital
from monai_vfx.simulation.scanner import SLICE_MM, FieldOfView

REAL = {"tcga_ov_abdomen": "enhanced, 3 mm", "totalseg_example": "native, 3 mm"}
"""Folder of the real CT → its name in tables."""
COHORT = 200
"""Patients that are drawn at least, however few of them are painted."""


@dataclass(frozen=True)
class Seen:
    """A CT with its labels.

    Args:
        name: of the case; no patient's.
        hu: (i, j, k) HU; i to the patient's right, j to the front, k to the head.
        labels: (i, j, k) bodies by VerSe number, muscles as in :mod:`monai_vfx.core.anatomy`.
        affine: (4, 4) voxel index → RAS mm, nearly diagonal.
        enhanced: whether contrast medium was given.
    """

    name: str
    hu: HUVolume
    labels: LabelVolume
    affine: Affine
    enhanced: bool


def seen(
    name: str, hu: HUVolume, labels: LabelVolume, affine: Affine, enhanced: bool = True
) -> Seen:
    """Return a case with its axes turned to right, front and head, whichever way they ran."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(hu, np.float32), affine))
    mask = nib.as_closest_canonical(nib.Nifti1Image(labels.astype(np.uint8), affine))
    return Seen(name, np.asarray(image.dataobj), np.asarray(mask.dataobj), image.affine, enhanced)


def real_cases(folder: Path) -> Iterator[Seen]:
    """Yield the real CT of the test data.

    Args:
        folder: what ``VFX_TEST_DATA`` names.
    """
    for name in REAL:
        yield real_case(folder, name)


def real_case(folder: Path, name: str) -> Seen:
    """Return one real CT with its labels.

    Args:
        folder: what ``VFX_TEST_DATA`` names.
        name: a folder of it, one of ``REAL``.
    """
    return {"tcga_ov_abdomen": _enhanced, "totalseg_example": _native}[name](folder / name)


def resliced(case: Seen) -> Seen:
    """Return the part of a CT within 130 mm of the bodies in slices of 5 mm.

    Finer slices are averaged over 5 mm; others stay as they are.
    """
    bodies = np.argwhere(np.isin(case.labels, [VERTEBRAE[level] for level in LEVELS]))
    spacing = voxel_spacing(case.affine)
    low = np.maximum(bodies.min(axis=0) - np.ceil(130 / spacing), 0).astype(int)
    high = bodies.max(axis=0) + np.ceil(130 / spacing).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    hu, labels, affine = case.hu[box].astype(np.float32), case.labels[box], case.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    if spacing[2] > 0.9 * SLICE_MM:
        return replace(case, hu=hu, labels=labels, affine=affine)
    ratio = SLICE_MM / spacing[2]
    count = int((hu.shape[2] - 1) / ratio)
    middles = (np.arange(count) + 0.5) * ratio
    total = np.zeros((*hu.shape[:2], count), np.float32)
    for part in (-0.4, -0.2, 0.0, 0.2, 0.4):
        at = np.clip(middles + part * ratio, 0, hu.shape[2] - 1)
        below = np.minimum(at.astype(int), hu.shape[2] - 2)
        share = (at - below).astype(np.float32)
        total += hu[:, :, below] * (1 - share) + hu[:, :, below + 1] * share
    affine[:3, 3] += affine[:3, 2] * middles[0]
    affine[:3, 2] *= ratio
    kept = labels[:, :, np.rint(middles).astype(int)]
    return replace(case, hu=total / 5, labels=kept, affine=affine)


def _enhanced(folder: Path) -> Seen:
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(folder / "dicom.tar.xz") as archive:
            archive.extractall(unpacked, filter="data")
        volume = open_volume(unpacked)
        hu = volume.read(tuple(slice(0, n) for n in volume.shape))
    labels = _given(folder / "vertebral_bodies.nii.gz", volume.affine)
    muscles = _given(folder / "paravertebral_muscle.nii.gz", volume.affine)
    for value, name in ((1, "erector_spinae"), (2, "psoas")):
        labels[(muscles == value) & (labels == 0)] = MUSCLES[name]
    return seen(REAL[folder.name], hu, labels, volume.affine)


def _native(folder: Path) -> Seen:
    image = nib.load(folder / "ct.nii.gz")
    body = np.asarray(nib.load(folder / "seg_vertebrae_body.nii.gz").dataobj) == 1
    labels = np.zeros(image.shape, np.uint8)
    for structure, name in (("autochthon", "erector_spinae"), ("iliopsoas", "psoas")):
        for side in ("left", "right"):
            path = folder / "v1_masks" / f"{structure}_{side}.nii.gz"
            labels[np.asarray(nib.load(path).dataobj) > 0] = MUSCLES[name]
    for level in ("L1", "L2", "L3", "L4", "L5"):
        path = folder / "v1_masks" / f"vertebrae_{level}.nii.gz"
        labels[(np.asarray(nib.load(path).dataobj) > 0) & body] = VERTEBRAE[level]
    hu = np.asarray(image.dataobj)
    return seen(REAL[folder.name], hu, labels, image.affine, enhanced=False)


def _given(path: Path, affine: Affine) -> LabelVolume:
    """Return a label map as it lies on a grid that differs from its own by order of axes alone."""
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.io_orientation(affine)
    )
    return np.asarray(image.as_reoriented(turn).dataobj).astype(np.uint8)


def phantoms(
    count: int, hospital: Hospital, field_of_view: FieldOfView, seed: int = 77
) -> Iterator[tuple[str, Callable[[], Seen]]]:
    """Yield names of simulated patients and what paints each as the hospital's scanner shows it.

    The labels are those painted, without the errors that a written mask has.
    """
    # A cohort of another size has other people; of this one the first are always the same.
    # Hospitals do not share a seed: their phantoms would be siblings.
    seed += 10_000 * get_args(Hospital).index(hospital)
    for row, patient in enumerate(draw_patients(max(count, COHORT), seed, hospital)[:count]):
        yield f"{hospital} {row}", partial(_phantom, patient, row, hospital, field_of_view, seed)


def _phantom(patient: Patient, row: int, hospital: Hospital, field: FieldOfView, seed: int) -> Seen:
    made = make_phantom(patient, np.random.SeedSequence(seed, spawn_key=(1, row)), hospital, field)
    return seen(f"{hospital} {row}", made.hu, made.labels, made.affine)
