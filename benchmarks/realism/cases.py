"""Real and simulated CT with labels, on one kind of grid: axes to right, front and head."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_vfx.anatomy import MUSCLES, VERTEBRAE
from monai_vfx.shapes import Affine, HUVolume, LabelVolume
from monai_vfx.simulation import draw_patients
from monai_vfx.simulation.phantom import make_phantom
from monai_vfx.simulation.populations import Hospital
from monai_vfx.simulation.scanner import FieldOfView
from monai_vfx.volumes import open_volume


@dataclass(frozen=True)
class Seen:
    """A CT with its labels.

    Args:
        name: of the case; no patient's.
        hu: (i, j, k) HU; i to the patient's right, j to the front, k to the head.
        labels: (i, j, k) bodies by VerSe number, muscles as in :mod:`monai_vfx.anatomy`.
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
    tcga = folder / "tcga_ov_abdomen"
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(tcga / "dicom.tar.xz") as archive:
            archive.extractall(unpacked, filter="data")
        volume = open_volume(unpacked)
        hu = volume.read(tuple(slice(0, n) for n in volume.shape))
    labels = _given(tcga / "vertebral_bodies.nii.gz", volume.affine)
    muscles = _given(tcga / "paravertebral_muscle.nii.gz", volume.affine)
    for value, name in ((1, "erector_spinae"), (2, "psoas")):
        labels[(muscles == value) & (labels == 0)] = MUSCLES[name]
    yield seen("contrast-enhanced, 3 mm", hu, labels, volume.affine)
    example = folder / "totalseg_example"
    image = nib.load(example / "ct.nii.gz")
    body = np.asarray(nib.load(example / "seg_vertebrae_body.nii.gz").dataobj) == 1
    labels = np.zeros(image.shape, np.uint8)
    for structure, name in (("autochthon", "erector_spinae"), ("iliopsoas", "psoas")):
        for side in ("left", "right"):
            path = example / "v1_masks" / f"{structure}_{side}.nii.gz"
            labels[np.asarray(nib.load(path).dataobj) > 0] = MUSCLES[name]
    for level in ("L1", "L2", "L3", "L4"):
        path = example / "v1_masks" / f"vertebrae_{level}.nii.gz"
        labels[(np.asarray(nib.load(path).dataobj) > 0) & body] = VERTEBRAE[level]
    yield seen("native, 3 mm", np.asarray(image.dataobj), labels, image.affine, enhanced=False)


def _given(path: Path, affine: Affine) -> LabelVolume:
    """Return a label map as it lies on a grid that differs from its own by order of axes alone."""
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.io_orientation(affine)
    )
    return np.asarray(image.as_reoriented(turn).dataobj).astype(np.uint8)


def phantoms(
    count: int, hospital: Hospital, field_of_view: FieldOfView, seed: int = 77
) -> Iterator[Seen]:
    """Yield simulated patients as the hospital's scanner shows them, labels as painted."""
    for row, patient in enumerate(draw_patients(max(count, 2), seed, hospital)[:count]):
        own = np.random.SeedSequence(seed, spawn_key=(1, row))
        made = make_phantom(patient, own, hospital, field_of_view)
        yield seen(f"{hospital} {row}", made.hu, made.labels, made.affine)
