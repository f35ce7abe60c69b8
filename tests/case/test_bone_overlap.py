from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_vfx.case.checks.bone_overlap import check_bone_overlap
from monai_vfx.case.mask.load import load_masks
from monai_vfx.core.errors import CaseRefused

SPACING = (1.5, 2.0, 3.0)
SHAPE = (70, 60, 70)


def phantom(core: float, shell: float, disc: float = 80.0) -> tuple[np.ndarray, np.ndarray]:
    """Five round bodies 40 mm wide and 24 mm high in muscle and fat, with discs between them."""
    x, y, z = (np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True))
    radius = np.hypot(x[:, None] - 52, y - 60)[..., None] + 0 * z
    hu = np.where((np.arange(SHAPE[1]) % 2 == 0)[None, :, None], 55.0, -90.0) + 0 * radius
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for number, value in enumerate((19, 20, 21, 22, 23)):
        middle = 188.0 - 36 * number
        height = np.abs(z - middle) + 0 * radius
        hu[(radius <= 20) & (height <= 18)] = disc
        body = (radius <= 20) & (height <= 12)
        hu[body] = shell
        hu[body & (radius <= 17) & (height <= 9)] = core
        labels[body] = value
    noise = np.random.default_rng(1).normal(0, 20, SHAPE)
    return (hu + noise).astype(np.float32), labels


@pytest.mark.parametrize(
    ("core", "shell"),
    [(180.0, 350.0), (120.0, 120.0), (15.0, 140.0), (-10.0, 130.0)],
    ids=["healthy", "uniform", "osteoporotic", "fatty marrow"],
)
def test_bone_is_accepted(core: float, shell: float) -> None:
    hu, labels = phantom(core, shell)
    check_bone_overlap(hu, labels, SPACING)
    muscles = np.where(labels == 0, 101, labels).astype(np.uint8)
    muscles[::2] = labels[::2]
    check_bone_overlap(hu, muscles, SPACING)


@pytest.mark.parametrize("voxels", [(13, 0, 0), (-13, 0, 0), (0, 10, 0), (0, -10, 0)])
@pytest.mark.parametrize("core", [15.0, 180.0])
def test_a_shift_by_20_mm_is_refused(core: float, voxels: tuple[int, int, int]) -> None:
    hu, labels = phantom(core, 160.0)
    with pytest.raises(CaseRefused, match="denser than its surroundings"):
        check_bone_overlap(hu, np.roll(labels, voxels, axis=(0, 1, 2)), SPACING)


def test_soft_tissue_is_refused() -> None:
    hu, labels = phantom(30.0, 35.0, disc=-50.0)
    hu[labels == 0] -= 60  # denser than its surroundings, but no bone
    with pytest.raises(CaseRefused, match="mask_off_bone"):
        check_bone_overlap(hu, labels, SPACING)
    with pytest.raises(CaseRefused, match="mask_off_bone"):
        check_bone_overlap(hu, np.zeros_like(labels), SPACING)
    with pytest.raises(CaseRefused, match="mask_off_bone"):
        check_bone_overlap(np.full(SHAPE, -2048, dtype=np.float32), labels, SPACING)


@pytest.mark.parametrize("axis", [0, 1])
def test_real_case(real_data: Path, axis: int) -> None:
    folder = real_data / "totalseg_example"
    image = nib.load(folder / "ct.nii.gz")
    hu = np.asarray(image.dataobj, dtype=np.float32)
    labels = load_masks(folder / "v1_masks", image.shape, image.affine).labels
    check_bone_overlap(hu, labels, (3.0, 3.0, 3.0))
    check_bone_overlap(hu, np.roll(labels, 1, axis=axis), (3.0, 3.0, 3.0))
    for voxels in (-10, -7, -5, 5, 7, 10):
        with pytest.raises(CaseRefused, match="mask_off_bone"):
            check_bone_overlap(hu, np.roll(labels, voxels, axis=axis), (3.0, 3.0, 3.0))


@pytest.mark.parametrize("width", [101, 119, 121, 123, 128])
def test_rows_of_another_length_are_no_bone(real_data: Path, width: int) -> None:
    """A header of wrong sizes shears the picture; 101 is the other side of the slice."""
    folder = real_data / "totalseg_example"
    image = nib.load(folder / "ct.nii.gz")
    hu = np.asarray(image.dataobj, dtype=np.float32)
    masks = load_masks(folder / "v1_masks", hu.shape, image.affine)
    labels = np.where((masks.labels >= 19) & (masks.labels <= 23), masks.labels, 0)
    check_bone_overlap(hu, labels, (3.0, 3.0, 3.0))
    across, down, slices = hu.shape
    rows = across * down // width
    flat = hu.transpose(2, 1, 0).reshape(slices, -1)[:, : rows * width]
    sheared = np.full((slices, down, across), -1000, dtype=np.float32)
    part = flat.reshape(slices, rows, width)[:, :down, :across]
    sheared[:, : part.shape[1], : part.shape[2]] = part
    with pytest.raises(CaseRefused, match="mask_off_bone"):
        check_bone_overlap(sheared.transpose(2, 1, 0), labels, (3.0, 3.0, 3.0))
