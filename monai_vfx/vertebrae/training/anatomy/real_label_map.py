"""The label map of a real person from the files of TotalSegmentator's test reference."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from monai_vfx.case.checks.fragments import largest_piece
from monai_vfx.core.anatomy import TOTALSEGMENTATOR_V2, VERTEBRAE
from monai_vfx.core.arrays import Affine, BoolVolume, HUVolume, LabelVolume
from monai_vfx.core.errors import CaseRefused
from monai_vfx.vertebrae.training.anatomy.grid_operators import along_axes, gaussian_matrix
from monai_vfx.vertebrae.training.anatomy.label_map import AnatomyMap
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue

Positions = npt.NDArray[np.float64]

_ORGANS: dict[Tissue, tuple[int, ...]] = {
    Tissue.SPLEEN: (1,),
    Tissue.KIDNEY: (2, 3),
    Tissue.GALLBLADDER: (4,),
    Tissue.LIVER: (5,),
    Tissue.STOMACH_WALL: (6,),
    Tissue.PANCREAS: (7, 8, 9),
    Tissue.LUNG: (10, 11, 12, 13, 14),
    Tissue.OESOPHAGUS: (15,),
    Tissue.AIRWAY: (16,),
    Tissue.BOWEL_WALL: (18, 19),
    Tissue.FAECES: (20,),
    Tissue.BLADDER: (21,),
    Tissue.PELVIC_ORGAN: (22,),
    Tissue.CYST: (23, 24),
    Tissue.SACRUM_TRABECULAR: (25, 26),
    Tissue.POSTERIOR_TRABECULAR: tuple(range(27, 51)),
    Tissue.BLOOD: (51, 53, 63, 64, 67, 68),
    Tissue.AORTA: (52, 65, 66),
    Tissue.LIMB_MARROW: (69, 70, 71, 72, 73, 74, 75, 76, 116),
    Tissue.PELVIS_MARROW: (77, 78),
    Tissue.CANAL: (79,),
    Tissue.MUSCLE: (80, 81, 82, 83, 84, 85),
    Tissue.ERECTOR_SPINAE: (86, 87),
    Tissue.PSOAS: (88, 89),
    Tissue.BRAIN: (90,),
    Tissue.SKULL: (91,),
    Tissue.RIB_MARROW: tuple(range(92, 116)),
    Tissue.COSTAL_CARTILAGE: (117,),
}
"""Tissue → classes of TotalSegmentator v2, task ``total``."""

_CORTEX: dict[Tissue, Tissue] = {
    Tissue.BODY_TRABECULAR: Tissue.BODY_CORTEX,
    Tissue.POSTERIOR_TRABECULAR: Tissue.POSTERIOR_CORTEX,
    Tissue.SACRUM_TRABECULAR: Tissue.SACRUM_CORTEX,
    Tissue.RIB_MARROW: Tissue.RIB_CORTEX,
    Tissue.PELVIS_MARROW: Tissue.PELVIS_CORTEX,
    Tissue.LIMB_MARROW: Tissue.LIMB_CORTEX,
}
_LEVELS = {
    number: VERTEBRAE[name] for number, name in TOTALSEGMENTATOR_V2.items() if name in VERTEBRAE
}
_GAS_HU, _FAT_HU, _CORTEX_HU, _METAL_HU = -300.0, -30.0, 320.0, 1800.0


def real_anatomy(
    folder: str | Path, spacing_mm: tuple[float, float, float] = (2, 2, 1.5)
) -> AnatomyMap:
    """Return the anatomy of TotalSegmentator's example, smoothly sampled on a finer grid.

    Shapes are the label maps'. The CT only tells what unlabelled voxels are (air, fat, muscle) and
    cortex from spongy bone; no HU of it remains.

    Args:
        folder: holds ``ct.nii.gz``, ``seg_v2_117class_fast.nii.gz`` (all classes of v2) and
            ``seg_vertebrae_body.nii.gz`` (1 body, 2 disc) on one grid along R, A and S.
        spacing_mm: of the returned grid, (x, y, z).

    Raises:
        CaseRefused: ``mask_unreadable``, ``mask_grid_mismatch``.
    """
    ct, affine = _read(Path(folder) / "ct.nii.gz")
    seg, seg_affine = _read(Path(folder) / "seg_v2_117class_fast.nii.gz")
    parts, parts_affine = _read(Path(folder) / "seg_vertebrae_body.nii.gz")
    for other, its_affine in ((seg, seg_affine), (parts, parts_affine)):
        if other.shape != ct.shape or not np.allclose(its_affine, affine, atol=1e-2):
            raise CaseRefused("mask_grid_mismatch", "the maps do not lie on the CT's grid")
    coarse = _label(ct, seg.astype(np.uint8), parts.astype(np.uint8))
    levels = _levels(coarse, seg.astype(np.uint8))
    step = np.diag(affine)[:3]
    if not np.allclose(affine[:3, :3], np.diag(step)) or (step <= 0).any():
        raise CaseRefused("mask_grid_mismatch", "the maps' axes do not run along R, A and S")
    shape = np.floor((np.array(ct.shape) - 1) * step / spacing_mm).astype(int) + 1
    axes = [np.arange(n) * new / old for n, new, old in zip(shape, spacing_mm, step, strict=True)]
    tissues = _upsample(coarse, axes, 0.6)
    bodies = tissues == Tissue.BODY_TRABECULAR
    vertebrae = _nearest(np.where(bodies, _upsample(levels, axes, 0.3), 0), bodies)
    linear = [_interpolation(at, n) for at, n in zip(axes, ct.shape, strict=True)]
    fine_hu = along_axes(torch.from_numpy(ct), linear).numpy()
    _add_cortex(tissues, fine_hu, np.asarray(spacing_mm, dtype=float))
    result = np.diag([*spacing_mm, 1.0])
    result[:3, 3] = affine[:3, 3]
    return AnatomyMap(tissues, vertebrae, result)


def _read(path: Path) -> tuple[HUVolume, Affine]:
    """Return (x, y, z) float32 values and the affine of a NIfTI file."""
    try:
        image = nib.nifti1.Nifti1Image.from_filename(path)
        return image.get_fdata(dtype=np.float32), np.asarray(image.affine, dtype=float)
    except (OSError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise CaseRefused("mask_unreadable", f"{path.name} cannot be read") from error


def _label(ct: HUVolume, seg: LabelVolume, parts: LabelVolume) -> LabelVolume:
    """Return tissues on the maps' own grid, bone without its cortex."""
    table = np.zeros(256, dtype=np.uint8)
    for tissue, numbers in _ORGANS.items():
        table[list(numbers)] = tissue
    tissues = table[seg]
    trunk = _trunk(ct > _GAS_HU)
    free = tissues == Tissue.AIR
    inner = _inner(trunk & (ct > _FAT_HU))
    tissues[free & trunk] = Tissue.SUBCUTANEOUS_FAT
    tissues[free & trunk & inner] = Tissue.VISCERAL_FAT
    tissues[free & trunk & (ct > _FAT_HU)] = Tissue.MUSCLE
    tissues[free & trunk & (ct > _CORTEX_HU)] = Tissue.CALCIFICATION
    tissues[free & trunk & (ct <= _GAS_HU)] = Tissue.GAS
    tissues[free & ~trunk & (ct > -700)] = Tissue.COUCH_SHELL
    rim = trunk & ~ndimage.binary_erosion(trunk, iterations=1, border_value=1)
    tissues[rim & (tissues == Tissue.SUBCUTANEOUS_FAT)] = Tissue.SKIN
    hollow = np.isin(tissues, (Tissue.STOMACH_WALL, Tissue.BOWEL_WALL, Tissue.FAECES))
    inside = ndimage.binary_erosion(hollow, iterations=1)
    tissues[inside & (tissues != Tissue.FAECES)] = Tissue.BOWEL_CONTENT
    tissues[hollow & ~inside & (tissues == Tissue.FAECES)] = Tissue.BOWEL_WALL
    tissues[hollow & (ct <= _GAS_HU)] = Tissue.GAS
    tissues[(parts == 1) & (tissues != Tissue.SACRUM_TRABECULAR)] = Tissue.BODY_TRABECULAR
    tissues[parts == 2] = Tissue.DISC
    metal = ndimage.binary_opening(ct > _METAL_HU)
    tissues[metal] = Tissue.METAL
    return tissues


def _trunk(dense: BoolVolume) -> BoolVolume:
    """Return the largest dense piece with the holes of its axial slices filled."""
    trunk, _ = largest_piece(ndimage.binary_opening(dense))
    for z in range(trunk.shape[2]):
        trunk[:, :, z] = ndimage.binary_fill_holes(trunk[:, :, z])
    return trunk


def _inner(lean: BoolVolume) -> BoolVolume:
    """Return what lies inside the muscular wall in each axial slice."""
    disc = np.hypot(*np.mgrid[-5:6, -5:6]) <= 5
    inner = np.zeros_like(lean)
    for z in range(lean.shape[2]):
        wall = ndimage.binary_opening(lean[:, :, z])
        padded = ndimage.binary_closing(np.pad(wall, 6), disc)
        inner[:, :, z] = ndimage.binary_erosion(ndimage.binary_fill_holes(padded))[6:-6, 6:-6]
    return inner


def _levels(tissues: LabelVolume, seg: LabelVolume) -> LabelVolume:
    """Return each body's level number; bodies' voxels without one take the nearest's."""
    table = np.zeros(256, dtype=np.uint8)
    for number, value in _LEVELS.items():
        table[number] = value
    bodies = tissues == Tissue.BODY_TRABECULAR
    return _nearest(np.where(bodies, table[seg], 0).astype(np.uint8), bodies)


def _nearest(levels: LabelVolume, bodies: BoolVolume) -> LabelVolume:
    """Return levels spread over ``bodies`` from the nearest labelled voxel, and nowhere else."""
    result = np.zeros_like(levels)
    if not levels.any():
        return result
    (box,) = ndimage.find_objects((bodies | (levels > 0)).astype(np.uint8))
    near = levels[box]
    at = ndimage.distance_transform_edt(near == 0, return_distances=False, return_indices=True)
    result[box] = np.where(bodies[box], near[tuple(at)], 0)
    return result


def _upsample(labels: LabelVolume, axes: list[Positions], smooth: float) -> LabelVolume:
    """Return labels at new positions: the label whose share, smoothed, is greatest.

    Positions along each axis and the Gaussian's SD ``smooth`` are in voxels.
    """
    matrices = [
        _interpolation(at, n) @ gaussian_matrix(n, smooth)
        for at, n in zip(axes, labels.shape, strict=True)
    ]
    best = torch.zeros([len(at) for at in axes])
    result = torch.zeros(best.shape, dtype=torch.uint8)
    for value in np.unique(labels).tolist():
        share = along_axes(torch.from_numpy(labels == value).float(), matrices)
        result[share > best] = value
        best = torch.maximum(best, share)
    return result.numpy()


def _interpolation(at: Positions, count: int) -> torch.Tensor:
    """Return the (positions, count) matrix of linear interpolation; ``at`` is in samples."""
    distance = torch.from_numpy(at).float()[:, None] - torch.arange(count, dtype=torch.float32)
    return (1 - distance.abs()).clamp(min=0)


def _add_cortex(tissues: LabelVolume, hu: HUVolume, spacing_mm: Affine) -> None:
    """Turn the rim of bones, and what is as dense, into cortex."""
    for spongy, cortex in _CORTEX.items():
        bone = tissues == spongy
        if bone.any():
            (box,) = ndimage.find_objects(bone.astype(np.uint8))
            # A map's edge cuts a bone; it is no surface of it.
            within = np.pad(bone, 1, mode="edge")[tuple(slice(s.start, s.stop + 2) for s in box)]
            depth = ndimage.distance_transform_edt(within, sampling=spacing_mm)
            rim = depth[1:-1, 1:-1, 1:-1] <= max(spacing_mm) + 0.1
            tissues[box][bone[box] & (rim | (hu[box] > _CORTEX_HU))] = cortex
